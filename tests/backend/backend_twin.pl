#!/usr/bin/perl
# SPDX-License-Identifier: MIT
#
# examples/registry.py once more, with Net::Remctl::Backend.  The entries are in the
# file that REGISTRY names; no option has an error of its own here.
use strict;
use warnings;

use Net::Remctl::Backend;
use Storable qw(nstore retrieve);

my $FILE  = $ENV{REGISTRY};
my $NAME  = qr/\A[a-z][a-z0-9]{0,15}\z/;
my $EMAIL = qr/\A[^\s@]+@[^\s@]+\z/;

# What str.isprintable() is for UTF-8, nearly enough.
my $TEXT = qr/\A(?:[\x20-\x7e]|[\xc3-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2})*\z/;

sub entries { return -e $FILE ? retrieve($FILE) : {} }

# Report an error as remctl.backend reports a CommandError.
sub fail {
    my ($command, $message, $status) = @_;
    print STDERR "registry $command: $message\n";
    return $status || 1;
}

sub list_users {
    my ($options) = @_;
    my $entries   = entries();
    my @names     = sort keys %$entries;
    if (defined $options->{limit} && $options->{limit} < @names) {
        @names = @names[0 .. $options->{limit} - 1];
    }
    for my $name (@names) {
        print $options->{long} ? "$name: $entries->{$name}{full_name}\n" : "$name\n";
    }
    return 0;
}

sub show {
    my ($name) = @_;
    my $entry = entries()->{$name} or return fail('show', "no such user: $name");
    my $email = $entry->{email} || 'none';
    print "name: $name\nfull name: $entry->{full_name}\nemail: $email\n";
    print "owner: $entry->{owner}\n";
    return 0;
}

sub create {
    my ($name, $full_name, $email) = @_;
    my $entries = entries();
    return fail('create', "there is such a user: $name") if $entries->{$name};
    $entries->{$name} =
      { full_name => $full_name, email => $email, owner => $ENV{REMOTE_USER} };
    nstore($entries, $FILE);
    return 0;
}

sub count_users {
    my (@names) = @_;
    my $entries = entries();
    my $found = grep { $entries->{$_} } @names;
    print "$found\n";
    return $found < @names ? 1 : 0;
}

sub upload_photo {
    my ($name, $image) = @_;
    my $entries = entries();
    my $entry = $entries->{$name}
      or return fail('photo upload', "no such user: $name");
    if ($entry->{owner} ne $ENV{REMOTE_USER}) {
        return fail('photo upload', "the user is not yours: $name", 2);
    }
    $entry->{photo} = $image;
    nstore($entries, $FILE);
    print length($image), " octets\n";
    return 0;
}

sub download_photo {
    my ($name) = @_;
    my $entry = entries()->{$name}
      or return fail('photo download', "no such user: $name");
    defined $entry->{photo} or return fail('photo download', "no photo: $name");
    print $entry->{photo};
    return 0;
}

my %commands = (
    list => {
        code     => \&list_users,
        options  => ['long|l', 'limit|n=i'],
        args_max => 0,
        syntax   => '[-l] [-n <limit>]',
        summary  => 'List all users.',
    },
    show => {
        code       => \&show,
        args_min   => 1,
        args_max   => 1,
        args_match => [$NAME],
        syntax     => '<name>',
        summary    => 'Show a user.',
    },
    create => {
        code       => \&create,
        args_min   => 2,
        args_max   => 3,
        args_match => [$NAME, $TEXT, $EMAIL],
        syntax     => '<name> <full-name> [<email>]',
        summary    => 'Create a user, who has no photo to begin with and belongs to'
          . ' the caller.',
    },
    count => {
        code    => \&count_users,
        syntax  => '[<names> ...]',
        summary => 'Print how many of these users there are.',
    },
    photo => {
        nested => {
            upload => {
                code       => \&upload_photo,
                args_min   => 2,
                args_max   => 2,
                args_match => [$NAME],
                stdin      => -1,
                syntax     => '<name> <image>',
                summary    => 'Give a user of one\'s own a photo, from standard'
                  . ' input.',
            },
            download => {
                code       => \&download_photo,
                args_min   => 1,
                args_max   => 1,
                args_match => [$NAME],
                syntax     => '<name>',
                summary    => 'Write a user\'s photo to standard output.',
            },
        },
    },
);
my $backend = Net::Remctl::Backend->new(
    {
        command     => 'registry',
        commands    => \%commands,
        help_banner => 'User registry remctl help:',
    }
);

# As upstream's own tests run it: die by itself exits with whatever errno is.
binmode STDIN;
my $status = eval { $backend->run() };
if ($@) {
    print STDERR $@;
    exit 255;
}
exit $status;
