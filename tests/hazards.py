# SPDX-License-Identifier: MIT
"""What libremctl 3.18 does when pushed, what keeps it away, and the tests that show it.

An audit of the C library found most of these; tests cite their numbers.
A Removal takes a guard, which a comment marks in the package (``guards.py``), out of
it: one of the row's tests fails then, which ``without_guards.py`` shows.  Rows without
one have no guard that could be taken out: what is dangerous is not called, or not
offered, at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from guards import Removal

if TYPE_CHECKING:
    from collections.abc import Sequence


class Hazard(NamedTuple):
    """One row."""

    what: str
    guard: str
    # Relative to this directory.
    tests: Sequence[str]
    removals: Sequence[Removal] = ()
    # What README.md or a docstring tells the user, where nothing else can be done.
    said: str = ""


HOSTILE = "client/test_hostile.py::test_hostile_server"
POOL = "client/test_pool.py"

# Jobs are run where they are begun, in place of a thread of their own.
RUN_AT_ONCE = """{
        atomic_store(&job->users, 2);
        pthread_mutex_unlock(&jobs.mutex);
        job->run(job);
        pthread_mutex_lock(&jobs.mutex);
        atomic_store(&job->ended, true);
        wake_caller(job);
        atomic_store(&job->users, 1);
    }"""

HAZARDS: dict[int, Hazard] = {
    # Memory errors and crashes
    1: Hazard(
        "remctl() frees a buffer twice when a server sends two empty outputs",
        "never called: the one-call interface stands on the full one",
        [
            "client/test_lost_connection.py::test_two_empty_outputs",
            "client/test_lowlevel.py::test_two_empty_outputs_are_served",
        ],
    ),
    2: Hazard(
        "a second open on a handle that fails leaves a stale descriptor number",
        "each open() makes a handle of its own",
        [
            "client/test_lowlevel.py::test_second_open_that_fails",
            "client/test_client.py::test_failed_open",
        ],
    ),
    3: Hazard(
        "with a time-out, select() on a descriptor above 1023 aborts the process",
        "libremctl has a time-out only where no descriptor can be that large",
        ["client/test_timeouts.py::test_time_outs_under_strain[fds]"],
        [
            Removal("_shim.c", {"3": ""}),
        ],
    ),
    4: Hazard(
        "with protocol 1, remctl_output() after a failure runs on descriptor -1",
        "a failure closes the connection",
        [
            "client/test_protocol1.py::test_a_broken_command_is_an_error_and_not_repeated"
        ],
        [
            Removal("_connection.py", {"4": "return False"}),
        ],
    ),
    5: Hazard(
        "the same after a failed open, of which a server can make protocol 1",
        "an object whose open() has failed has no connection",
        [
            f"{HOSTILE}[blocking-answer of length 0]",
            "client/test_client.py::test_failed_open",
        ],
        [
            Removal("_base.py", {"5": "broken = False"}),
        ],
    ),
    6: Hazard(
        "a handle is not thread safe",
        "one lock for each object, around the call and the copying of its results",
        [
            "client/test_threads.py::test_mixed_calls_corrupt_nothing",
            "client/test_threads.py::test_each_thread_gets_its_own_reply",
        ],
        [
            Removal("_client.py", {"6": "with threading.RLock():"}),
        ],
    ),
    7: Hazard(
        "remctl_close() frees what another thread's call is using",
        "close() shuts the socket down; who leaves the connection last frees it",
        ["client/test_threads.py::test_close_ends_a_blocked_call_at_once"],
        [
            Removal("_shim.c", {"7a": "end_connection(c);"}),
            Removal("_shim.c", {"7b": ";"}),
        ],
    ),
    8: Hazard(
        "a second close frees twice",
        "a connection counts who uses it, and being open counts once",
        [
            "client/test_memory.py::test_close_twice_while_a_call_waits",
            "client/test_memory.py::test_close_from_many_threads",
            "client/test_jobs.py::test_nothing_is_left_of_jobs_that_were_left",
        ],
        [
            Removal("_shim.c", {"8": ";"}),
        ],
    ),
    9: Hazard(
        "texts and data that libremctl returns die at the next call",
        "texts are copied, data is taken over, within the call",
        [
            "client/test_client.py::test_tokens_of_a_command",
            f"{HOSTILE}[blocking-noop answered by garbage]",
        ],
        [
            Removal("_shim.c", {"9a": ""}),
            Removal("_shim.c", {"9b": "results->error = (char *) text;"}),
        ],
    ),
    10: Hazard(
        "NULL for a string crashes, or means loopback",
        "strings are strings, and the host is not empty",
        ["client/test_arguments.py::test_bad_input"],
        [
            Removal("_arguments.py", {"10a": "if False:"}),
            Removal("_arguments.py", {"10b": "if False:"}),
        ],
    ),
    11: Hazard(
        "a descriptor that is no socket is written to, or aborts the process",
        "open(sock=...) takes connected stream sockets only",
        ["client/test_arguments.py::test_bad_sock"],
        [
            Removal("_arguments.py", {"11a": "if False:"}),
            Removal("_arguments.py", {"11b": "if False:"}),
            Removal("_arguments.py", {"11c": "pass"}),
        ],
    ),
    12: Hazard(
        "remctl_open_fd() closes the descriptor, also when it fails",
        "it has a duplicate of its own",
        ["client/test_lost_connection.py::test_a_number_that_libremctl_has_closed"],
        [
            Removal("_shim.c", {"12a": "c->library_fd = c->fd;", "12b": "if (0) {"}),
        ],
    ),
    13: Hazard(
        "a non-blocking socket makes it spin, and then report an end of file",
        "the socket is made blocking",
        ["client/test_client.py::test_sock_is_used_and_taken_over"],
        [
            Removal("_shim.c", {"13": ""}),
        ],
    ),
    14: Hazard(
        "with protocol 1, an output's status and error are uninitialised",
        "of a token only the members of its type are read",
        [
            "client/test_protocol1.py::test_each_command_has_a_connection_and_its_own_status"
        ],
        [
            Removal(
                "_connection.py",
                {"14": 'fields = ("output", data, stream, 1, None)'},
            ),
        ],
    ),
    15: Hazard(
        "a status and the end have NULL for data, and a reply without output, too",
        "data is unpacked where there is some",
        ["client/test_lost_connection.py::test_two_empty_outputs"],
        [
            Removal("_connection.py", {"15": "stdout = ffi.unpack(handle.out, out)"}),
        ],
    ),
    16: Hazard(
        "each open of a handle, and each replayed token, leaks",
        "one handle for one connection, closed at the first error",
        [
            "client/test_memory.py::test_nothing_is_left_of_300_connections",
            "client/test_memory.py::test_memory_stays_bounded",
        ],
        [
            Removal("_shim.c", {"16": ""}),
        ],
    ),
    17: Hazard(
        "krb5 reads the environment while another thread may change it",
        "nothing in this package writes there; the user is told",
        ["client/test_client.py::test_krb5ccname_is_read_by_each_open"],
        said="Writing to `os.environ` while another thread opens a connection",
    ),
    # The wrong identity, the wrong server
    18: Hazard(
        "pointers to the host and the principal are kept",
        "both are C memory of the connection's own",
        ["client/test_client.py::test_sock_with_a_principal"],
        [
            Removal(
                "_shim.c",
                {"18a": "c->principal = (char *) (uintptr_t) principal;", "18b": ""},
            ),
        ],
    ),
    19: Hazard(
        "it opens a connection again by itself, as whoever is current then",
        "a lost connection is closed; protocol 1 keeps the cache of open()",
        [
            "client/test_protocol1.py::test_commands_run_as_who_opened",
            "client/test_protocol1.py::test_a_variable_that_was_not_there_at_open",
        ],
        [
            Removal(
                "_connection.py", {"19a": "handle = self._new_handle(-1, self._ccache)"}
            ),
            Removal("_connection.py", {"19b": ""}),
        ],
    ),
    20: Hazard(
        "NUL cuts a host, principal or cache short",
        "ValueError",
        ["client/test_arguments.py::test_nul_in_any_string"],
        [
            Removal("_arguments.py", {"20": "if False:"}),
        ],
    ),
    21: Hazard(
        "remctl_noop() opens a new connection and reports success",
        "a lost connection is closed",
        [
            f"{HOSTILE}[blocking-close after status, noop]",
            f"{HOSTILE}[blocking-noop answered by close]",
        ],
        [
            Removal("_connection.py", {"21": ""}),
        ],
    ),
    22: Hazard(
        "a single bit that nothing protects turns a server into one of protocol 1",
        "a server that has spoken protocol 2 is not believed",
        [f"{HOSTILE}[blocking-a downgrade to protocol 1]"],
        [
            Removal("_connection.py", {"22": ""}),
        ],
    ),
    23: Hazard(
        "a handle that has spoken protocol 1 speaks it to every later server",
        "each open() makes a handle of its own",
        ["client/test_protocol1.py::test_a_server_that_turns_from_1_to_2"],
    ),
    24: Hazard(
        "settings are for the next open, and looked at there",
        "they are the object's, and documented so",
        [
            "client/test_client.py::test_ccache_is_for_later_opens",
            "client/test_client.py::test_source_ip_is_for_later_opens",
            "client/test_client.py::test_missing_ccache_is_noticed_by_open",
        ],
    ),
    25: Hazard(
        "krb5 fills a missing cache from a client keytab, as whoever that is",
        "the user is told",
        [
            "client/test_client.py::test_missing_ccache_is_noticed_by_open",
            "client/test_identity.py::test_a_client_keytab_fills_a_missing_cache",
        ],
        said="unless there is a client keytab",
    ),
    26: Hazard(
        "gss_krb5_ccache_name() overrules KRB5CCNAME in the thread that called it",
        "handshakes run in threads of their own; the user is told",
        ["client/test_identity.py::test_another_bindings_cache_is_not_ours"],
        [
            Removal("_jobs.c", {"26": RUN_AT_ONCE}),
        ],
        said="what another GSS-API binding has set for its thread does not count",
    ),
    27: Hazard(
        'the principal is the server\'s, and "" is not none',
        'documented; "" stands for none',
        ["client/test_simple.py::test_default_principal_is_the_host"],
        [
            Removal(
                "_arguments.py", {"27": 'principal = text("principal", principal)'}
            ),
        ],
    ),
    28: Hazard(
        "tokens that are signed and not encrypted are accepted",
        "their beginnings say so, and are looked at; of the rest the user is told",
        [
            "client/test_lost_connection.py::test_replies_that_are_not_encrypted",
            "client/test_lost_connection.py::test_replies_with_an_old_encryption_type",
        ],
        [
            Removal("_shim.c", {"28a": "if (0)"}),
            Removal("_shim.c", {"28b": ";"}),
        ],
        said="Whether the answer to a NOOP is encrypted, or anything in protocol 1,",
    ),
    29: Hazard(
        "some builds can set the cache of the whole process only",
        "the user is told (builds with MIT Kerberos have one for each object)",
        ["client/test_identity.py::test_each_object_runs_as_the_user_of_its_cache"],
        [
            Removal("_connection.py", {"29": "self._ccache = None"}),
        ],
        said="with a libremctl built without gss_krb5_import_cred",
    ),
    # Wrong results
    30: Hazard(
        "a command before the last one's reply is read gets that reply",
        "RemctlError, and nothing is sent",
        ["client/test_client.py::test_reply_must_be_read_first"],
        [
            Removal("_connection.py", {"30": ""}),
        ],
    ),
    31: Hazard(
        "after an error other than the end, the next command gets the last reply",
        "any failed call closes the connection",
        [f"{HOSTILE}[blocking-reply with token of length 0]"],
        [
            Removal("_connection.py", {"31": "return False"}),
        ],
    ),
    32: Hazard(
        "with remctl_open_fd() and protocol 1 there is no exit status",
        "remctl_open() for each command, and none on a socket of the caller's",
        ["client/test_protocol1.py::test_a_socket_cannot_serve_protocol_1"],
        [
            Removal("_shim.c", {"32": "} else if (0)"}),
        ],
    ),
    33: Hazard(
        "the exit status goes through a signed char",
        "128 to 255 are put right",
        ["client/test_client.py::test_every_status"],
        [
            Removal("_shim.c", {"33": ";"}),
        ],
    ),
    34: Hazard(
        "remctl_command() and remctl() cut arguments at NUL",
        "only remctl_commandv() is called",
        [
            "client/test_client.py::test_nul_in_arguments",
            "client/test_simple.py::test_nul_is_not_the_end_of_an_argument",
        ],
    ),
    35: Hazard(
        "a command that failed ends with DONE, like one that went well",
        "a result has a status; failed calls close the connection",
        [
            "client/test_lost_connection.py::test_run_makes_no_result_without_a_status",
            f"{HOSTILE}[blocking-a server that never reads]",
        ],
        [
            Removal("_base.py", {"35": "broken = False"}),
        ],
    ),
    36: Hazard(
        "a command of which half was sent is joined by the next one",
        "any failed call closes the connection",
        [
            "client/test_lost_connection.py::test_a_reset_in_the_middle_of_a_large_command"
        ],
        [
            Removal("_connection.py", {"36": ""}),
        ],
    ),
    37: Hazard(
        "remctld answers each token of a command that is too large with an error",
        "100 MiB are refused, and an error for several tokens ends the connection",
        [
            "client/test_arguments.py::test_bad_input",
            "client/test_arguments.py::test_largest_command",
            "client/test_lost_connection.py::test_an_error_for_a_command_of_several_tokens",
        ],
        [
            Removal("_arguments.py", {"37a": "if False:"}),
            Removal("_connection.py", {"37b": "pass"}),
        ],
    ),
    38: Hazard(
        "tokens after the end of a reply are kept for the next one",
        "nothing may have come before a command is sent",
        [
            f"{HOSTILE}[blocking-output after status, run]",
            f"{HOSTILE}[blocking-output after status, noop]",
        ],
        [
            Removal("_shim.c", {"38": "return SHIM_OK;"}),
        ],
    ),
    39: Hazard(
        "remctl_noop() swallows a token of an unread reply",
        "RemctlError, and nothing is sent",
        ["client/test_client.py::test_reply_must_be_read_first"],
        [
            Removal("_connection.py", {"39": ""}),
        ],
    ),
    40: Hazard(
        "with protocol 1, output without a command blocks, and statuses repeat",
        "without a reply outstanding the answer is DONE, and nothing is asked",
        [
            "client/test_protocol1.py::test_each_command_has_a_connection_and_its_own_status"
        ],
        [
            Removal("_connection.py", {"40": "if False:"}),
        ],
    ),
    # Signals, hangs and time
    41: Hazard(
        "Ctrl-C is noticed when the C call returns",
        "what may block runs in a thread of its own",
        ["client/test_signals.py::test_ctrl_c_ends_a_call_at_once[handshake]"],
        [
            Removal("_jobs.c", {"41": RUN_AT_ONCE}),
        ],
    ),
    42: Hazard(
        "ten signals end a write, a hundred a read",
        "signals are blocked in the threads that may block in C",
        [
            "client/test_signals.py::test_signals_do_not_disturb_large_transfers",
            "client/test_signals.py::test_signals_do_not_disturb_a_slow_server",
        ],
        [
            Removal("_shim.c", {"42": "sigemptyset(&all);"}),
        ],
    ),
    43: Hazard(
        "with a signal every now and then, a time-out never comes",
        "a deadline, fixed before the wait",
        ["client/test_signals.py::test_signals_do_not_put_time_outs_off"],
        [
            Removal("_connection.py", {"43": "if deadline := Deadline(timeout):"}),
        ],
    ),
    44: Hazard(
        "SIGPIPE kills programs that have set it to SIG_DFL",
        "it is blocked, and taken back, around each call that may write",
        ["client/test_signals.py::test_lost_connection_does_not_kill"],
        [
            Removal("_shim.c", {"44": "if (0) {"}),
        ],
    ),
    45: Hazard(
        "a handler's exception comes after the call: a token is lost",
        "a reply that an exception has interrupted is not read on",
        [
            "client/test_signals.py::test_handler_that_raises_at_any_line_leaves_nothing_behind"
        ],
        [
            Removal("_base.py", {"45": "unread = False"}),
        ],
    ),
    46: Hazard(
        "writes may block for ever, those of remctl_close() too",
        "the socket is shut down first, unless QUIT fits its buffer",
        [
            "client/test_lost_connection.py::test_the_end_does_not_wait_for_room_to_write"
        ],
        [
            Removal("_shim.c", {"46": ";"}),
        ],
    ),
    47: Hazard(
        "a forked child's close ends the parent's connection",
        "a child only lets go of its copies",
        [
            "client/test_processes.py::test_forked_child_neither_uses_nor_disturbs_the_connection",
            "client/test_processes.py::test_forked_child_leaves_an_idle_connection_alone",
            "client/test_processes.py::test_fork_while_another_thread_uses_the_object",
            "client/test_processes.py::test_a_child_with_its_parents_process_id",
            "client/test_processes.py::test_a_child_that_closes_all_descriptors",
            "client/test_processes.py::test_threads_of_a_child_that_touch_an_inherited_object",
            "client/test_processes.py::test_fork_while_a_connection_ends",
        ],
        [
            Removal("_shim.c", {"47a": "if (0)", "47b": "return true;"}),
            Removal("_shim.c", {"47a": "if (0)"}),
            Removal("_shim.c", {"47c": "if (taken->fd >= 0)"}),
            Removal("_shim.c", {"47d": ""}),
            Removal("_base.py", {"47e": "ours = 0"}),
        ],
    ),
    48: Hazard(
        "no time-out holds for the name service and the KDC",
        "both are waited for in a thread, until a deadline of our own",
        [
            "client/test_timeouts.py::test_the_name_service_times_out",
            "client/test_timeouts.py::test_a_mute_kdc_times_out",
        ],
        [
            Removal("_connection.py", {"48": "deadline = NEVER"}),
        ],
    ),
    49: Hazard(
        "a time-out is for each read: a server that dribbles never runs into it",
        "one deadline for the whole handshake; silence is measured afterwards",
        ["client/test_timeouts.py::test_the_handshake_times_out_as_a_whole"],
        [
            Removal("_connection.py", {"49": "deadline = IdleDeadline(handle, left)"}),
        ],
    ),
    50: Hazard(
        "the wall clock counts, in whole seconds",
        "the monotonic clock",
        ["client/test_timeouts.py::test_the_wall_clock_does_not_count"],
        [
            Removal(
                "_waiting.py",
                {
                    "50a": (
                        'self._when = __import__("time").time() + timeout'
                        " if timeout else math.inf"
                    ),
                    "50b": 'return self._when - __import__("time").time()',
                },
            ),
        ],
    ),
    51: Hazard(
        "half a second would be none, which is for ever",
        "fractions count; what is no finite number is refused",
        [
            "client/test_arguments.py::test_bad_input",
            "client/test_timeouts.py::test_the_handshake_times_out_as_a_whole",
        ],
        [
            Removal("_arguments.py", {"51a": "if False:"}),
            Removal("_base.py", {"51b": "self._timeout = float(int(seconds))"}),
        ],
    ),
    # Input, text and resources
    52: Hazard(
        "texts are octets of no known encoding",
        "what is not UTF-8 becomes escapes",
        ["client/test_simple.py::test_text_of_any_library_can_be_shown"],
        [
            Removal("_ffi.py", {"52": 'return ffi.string(pointer).decode("ascii")'}),
        ],
    ),
    53: Hazard(
        "a server's codes and texts are anything",
        "codes are ints of 32 bits, texts octets",
        [
            "client/test_client.py::test_unknown_error_codes_are_ints",
            f"{HOSTILE}[blocking-error 6 with Latin-1]",
        ],
        [
            Removal("_connection.py", {"53a": "code = ErrorCode(handle.code)"}),
            Removal("_results.py", {"53b": 'message = token.output.decode("utf-8")'}),
        ],
    ),
    54: Hazard(
        "output has no bound",
        "the full interface reads token by token; the user is told",
        [f"{HOSTILE}[blocking-an endless flood]"],
        said="all of the output is kept in memory",
    ),
    55: Hazard(
        "an empty command goes to the server",
        "ValueError",
        ["client/test_arguments.py::test_bad_input"],
        [
            Removal("_arguments.py", {"55": "if False:"}),
        ],
    ),
    56: Hazard(
        "source addresses are taken in odd notations, and nonsense as late as can be",
        "what ipaddress takes, before connecting",
        ["client/test_client.py::test_source_ip_is_checked_by_open"],
        [
            Removal("_connect.py", {"56": "family = 0"}),
        ],
    ),
    57: Hazard(
        "programs that are started inherit the connection",
        "descriptors are closed on exec",
        [
            "client/test_processes.py::test_programs_started_do_not_inherit_the_connection"
        ],
        [
            Removal(
                "_shim.c", {"57": "int copy = fcntl(fd, F_DUPFD, FIRST_DESCRIPTOR);"}
            ),
        ],
    ),
    58: Hazard(
        "finalizers do network I/O, for ever at worst",
        "QUIT where it fits the buffer, else the socket is shut down; no lock taken",
        [
            "client/test_memory.py::test_dropping_the_object_closes_the_connection",
            "client/test_memory.py::test_finalizers_may_use_the_object",
        ],
        [
            Removal("_shim.c", {"58": "return;"}),
        ],
    ),
    59: Hazard(
        "a signal handler may use the object its own thread is using",
        "it gets a RemctlError",
        [
            "client/test_signals.py::test_handler_cannot_use_the_object_of_its_own_thread"
        ],
        [
            Removal("_client.py", {"59": "if False:"}),
        ],
    ),
    60: Hazard(
        "a wrong declaration of a C type goes unnoticed",
        "the compiler sees all of them (API mode)",
        ["packaging/test_packaging.py::test_every_c_function_is_offered_or_left_out"],
    ),
    61: Hazard(
        "a bytearray may change while it is being sent",
        "it is copied first",
        [
            "client/test_simple.py::test_arguments_are_converted",
            "client/test_simple.py::test_arguments_are_copied_at_once",
        ],
        [
            Removal("_arguments.py", {"61": "return item"}),
        ],
    ),
    62: Hazard(
        "names that are not ASCII are looked up, and authenticated to, as they are",
        "IDNA, once, for both; numeric shorthands are the resolver's",
        ["client/test_arguments.py::test_names_that_are_not_ascii"],
        [
            Removal("_arguments.py", {"62": "return host"}),
        ],
    ),
    63: Hazard(
        "a connection may get descriptor 0, 1 or 2, and a message of a C library",
        "it gets others",
        [
            "client/test_processes.py::test_programs_without_standard_streams",
        ],
        [
            Removal("_jobs.c", {"63a": "#define FIRST_DESCRIPTOR 0"}),
            Removal("_shim.c", {"63b": ""}),
        ],
    ),
    # Found later
    64: Hazard(
        "remctld has more to say after some errors, where libremctl ends the reply",
        "before the next command a NOOP, whose answer must come next",
        [
            "client/test_in_step.py::test_a_command_that_is_answered_twice",
            "client/test_in_step.py::test_noop_after_it",
        ],
        [
            Removal("_connection.py", {"64a": "if self._protocol1_port is not None:"}),
            Removal("_shim.c", {"64b": "#define MAX_NOOPS 1"}),
        ],
    ),
    65: Hazard(
        "cffi frees the memory of an object that the collector has finalized",
        "the memory is another object's, which all users have",
        ["client/test_memory.py::test_a_younger_finalizer_uses_what_is_finalized"],
        [
            Removal(
                "_ffi.py",
                {
                    "65a": 'handle = ffi.gc(ffi.new("shim_handle *"), lib.shim_free)',
                    "65b": "return handle, handle",
                },
            ),
        ],
    ),
    66: Hazard(
        "a caller leaves what a thread is still using",
        "a job has two users, its caller and its thread; who leaves last frees it",
        ["client/test_jobs.py::test_nothing_is_left_of_jobs_that_were_left"],
        [
            Removal("_jobs.c", {"66": ""}),
        ],
    ),
    67: Hazard(
        "a forked child has none of the threads that run jobs",
        "it forgets them, their jobs and these jobs' descriptors",
        ["client/test_jobs.py::test_a_child_forgets_the_jobs"],
        [
            Removal("_jobs.c", {"67a": "(void) forget_job;"}),
            Removal("_jobs.c", {"67b": ""}),
        ],
    ),
    68: Hazard(
        "a thread cannot be had, and a call that blocks does not end",
        "RemctlError at once",
        ["client/test_jobs.py::test_no_thread_to_be_had"],
        [
            Removal("_jobs.c", {"68": "start_thread();"}),
        ],
    ),
    # Found with pools of connections
    69: Hazard(
        "a client is used after its connection has gone to another caller",
        "each loan has a client of its own, from which the connection is taken away",
        [f"{POOL}::test_a_loan_that_has_ended_is_over"],
        [
            Removal("_pool.py", {"69": "connection = client._connection"}),
        ],
    ),
    70: Hazard(
        "a client has opened a connection to another server, or for another user",
        "only the connection that was lent comes back",
        [
            f"{POOL}::test_a_connection_in_another_state_does_not_come_back",
        ],
        [
            Removal("_pool.py", {"70": "lent = True"}),
        ],
    ),
    71: Hazard(
        "a connection goes to another caller with a reply unread, or still to come",
        "it comes back only in step, and is lent only if nothing has come since then",
        [
            f"{POOL}::test_a_connection_in_another_state_does_not_come_back",
            f"{POOL}::test_what_comes_to_an_idle_connection",
        ],
        [
            Removal("_pool.py", {"71a": "if lent and connection is not None:"}),
            Removal("_pool.py", {"71b": "if False:"}),
        ],
    ),
    72: Hazard(
        "a connection keeps the permissions that it was opened with",
        "a pool closes it after max_age seconds",
        [
            f"{POOL}::test_an_old_connection_is_closed",
            f"{POOL}::test_an_old_connection_that_comes_back",
        ],
        [
            Removal("_pool.py", {"72": "if False:"}),
        ],
    ),
    73: Hazard(
        "a look at a token sees too little of it, and then all of it is there",
        "it is looked at again before it is judged",
        [
            "client/test_replies.py::test_the_rest_of_a_token_comes_between_two_looks",
        ],
        [
            Removal("_shim.c", {"73": "return 0;"}),
        ],
    ),
    74: Hazard(
        "one look shows several tokens, of which the first is as it should be",
        "each is judged by what itself looks like",
        [
            "client/test_replies.py::test_each_token_that_was_seen_at_once_is_judged",
        ],
        [
            Removal("_shim.c", {"74": ""}),
        ],
    ),
    75: Hazard(
        "when the name service answers at last, the caller of open() may have left",
        "before each address the job asks whether it is still wanted",
        ["client/test_jobs.py::test_a_job_that_was_left_does_not_connect"],
        [
            Removal("_connect.c", {"75a": "if (false)", "75b": "if (false)"}),
        ],
    ),
    76: Hazard(
        "servers that are silent keep a thread each, and there are none for others",
        "a thread waits for a moment only, and then the caller does",
        ["client/test_jobs.py::test_addresses_that_are_silent_keep_no_threads"],
        [
            Removal("_connect.c", {"76": "#define CONNECT_WAIT_MS 3600000"}),
        ],
    ),
    77: Hazard(
        "a socket's number may be a file's when the next address is tried",
        "it is looked at before it gets another socket",
        [
            "client/test_jobs.py::test_a_silent_socket_that_the_program_has_closed",
            "client/test_jobs.py::test_a_silent_socket_that_is_another_by_now",
        ],
        [
            Removal("_connect.c", {"77": "if (true)"}),
        ],
    ),
    78: Hazard(
        "a forked child inherits the name service's locks, and waits without end",
        "a fork waits for other threads' look-ups, for a fifth of a second at most",
        [
            "client/test_processes.py::test_fork_while_another_thread_looks_a_name_up",
        ],
        [
            Removal("_connect.c", {"78a": "", "78b": ""}),
        ],
    ),
}
