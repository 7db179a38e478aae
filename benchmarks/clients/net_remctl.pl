# SPDX-License-Identifier: MIT
#
# Net::Remctl: CLIENT MEASURE HOST PORT SIZE TURNS WARM, as in common.py.

use strict;
use warnings;

use Net::Remctl ();
use Time::HiRes qw(CLOCK_MONOTONIC CLOCK_PROCESS_CPUTIME_ID clock_gettime);

my ($measure, $host, $port, $size, $turns, $warm) = @ARGV;

my (@seconds, @cpu);

sub start {
    push @cpu,     -clock_gettime(CLOCK_PROCESS_CPUTIME_ID);
    push @seconds, -clock_gettime(CLOCK_MONOTONIC);
}

sub stop {
    $seconds[-1] += clock_gettime(CLOCK_MONOTONIC);
    $cpu[-1]     += clock_gettime(CLOCK_PROCESS_CPUTIME_ID);
}

sub report {
    my ($units, %figures) = @_;
    @seconds = sort { $a <=> $b } @seconds[$warm .. $#seconds];
    @cpu     = @cpu[$warm .. $#cpu];
    my $sum = 0;
    $sum += $_ for @cpu;
    my $median = ($seconds[$#seconds / 2] + $seconds[@seconds / 2]) / 2;
    print 'seconds ', $median / $units, "\n";
    print 'cpu ', $sum / @cpu / $units, "\n";
    print "$_ $figures{$_}\n" for keys %figures;
}

# The octets of memory that this process has had at most.
sub peak {
    open my $status, '<', '/proc/self/status' or die "status: $!\n";
    while (<$status>) {
        return 1024 * $1 if /^VmHWM:\s*(\d+)/;
    }
    die "no VmHWM\n";
}

sub expect {
    my ($expected, $found) = @_;
    die "expected $expected, not $found\n" if $expected ne $found;
}

sub connection {
    my $remctl = Net::Remctl->new;
    $remctl->open($host, $port) or die $remctl->error, "\n";
    return $remctl;
}

# Read a command's tokens, and pass the output of each to a function.
sub read_tokens {
    my ($remctl, $function) = @_;
    while (1) {
        my $output = $remctl->output or die $remctl->error, "\n";
        last if $output->type ne 'output';
        $function->($output->data);
    }
}

sub run {
    my ($remctl, @command) = @_;
    my $stdout = '';
    $remctl->command(@command) or die $remctl->error, "\n";
    read_tokens($remctl, sub { $stdout .= $_[0] });
    return $stdout;
}

my %measures = (
    command => sub {
        my $remctl = connection();
        for (1 .. $warm + $turns) {
            start();
            my $stdout = run($remctl, 'echo', 'hello');
            stop();
            expect("hello\n", $stdout);
        }
        report(1);
    },
    connect => sub {
        for (1 .. $warm + $turns) {
            start();
            my $remctl = connection();
            stop();
        }
        report(1);
    },
    one => sub {
        for (1 .. $warm + $turns) {
            start();
            my $result = Net::Remctl::remctl($host, $port, '', 'echo', 'hello');
            stop();
            expect("hello\n", $result->error // $result->stdout);
        }
        report(1);
    },
    noop => sub {
        my $remctl = connection();
        for (1 .. $warm + $turns) {
            start();
            $remctl->noop or die $remctl->error, "\n";
            stop();
        }
        report(1);
    },
    output => sub {
        my $remctl = connection();
        for (1 .. $warm + $turns) {
            my $octets = 0;
            start();
            $remctl->command('head', "-c$size", '/dev/zero') or die $remctl->error, "\n";
            read_tokens($remctl, sub { $octets += length $_[0] });
            stop();
            expect($size, $octets);
        }
        report(1, memory => peak());
    },
    tokens => sub {
        my $remctl = connection();
        for (1 .. $warm + $turns) {
            my $found = 0;
            $remctl->command('tokens', $size) or die $remctl->error, "\n";
            $remctl->output or die $remctl->error, "\n";
            start();
            read_tokens($remctl, sub { $found++ });
            stop();
            expect($size - 1, $found);
        }
        report($size);
    },
    send => sub {
        my $remctl   = connection();
        my $argument = "\0" x $size;
        for (1 .. $warm + $turns) {
            start();
            my $stdout = run($remctl, 'wc', '-c', $argument);
            stop();
            expect("$size\n", $stdout);
        }
        report(1);
    },
);

$measures{$measure}->();
