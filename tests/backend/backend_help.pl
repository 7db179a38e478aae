#!/usr/bin/perl
# SPDX-License-Identifier: MIT
#
# Print the help of Net::Remctl::Backend: backend_help.pl COMMAND BANNER, with a line
# "NAME<tab>SYNTAX<tab>SUMMARY" on standard input for each command.
use strict;
use warnings;

use Net::Remctl::Backend;

my ($command, $banner) = @ARGV;
my %commands;
while (my $line = <STDIN>) {
    chomp $line;
    my ($name, $syntax, $summary) = split /\t/, $line, -1;
    my ($head, $tail) = split / /, $name;
    my $entry = { code => sub { }, syntax => $syntax, summary => $summary };
    if (defined $tail) {
        $commands{$head}{nested}{$tail} = $entry;
    } else {
        $commands{$head} = { %{ $commands{$head} || {} }, %$entry };
    }
}
my %config = (command => $command, help_banner => $banner, commands => \%commands);
print Net::Remctl::Backend->new(\%config)->help;
