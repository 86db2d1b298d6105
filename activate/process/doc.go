// Package process is the module for services of type "process": a program, run under a keeper.
//
// # What a program gets
//
// Its environment is this and nothing of the agent's; what the spec adds is stronger, except for the last six:
//
//	PATH                /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
//	HOME                the home directory of the spec's User; without one, STATE_DIRECTORY
//	USER                the spec's User; without one, the service's name
//	LANG                C.UTF-8
//	TMPDIR              RunDir/tmp, 0700, emptied before every start
//	STATE_DIRECTORY     StateDir, 0700, kept
//	ISONOMIA_SERVICE    the service's name
//	ISONOMIA_NODE       the node's name
//	ISONOMIA_EPOCH      the index of the claim that it was started under
//	NOTIFY_SOCKET       a datagram socket for sd_notify messages (unless DIR is too deep for its name)
//	ISONOMIA_INSTANCE   the keeper's mark
//
// Its working directory is the package, which is read-only: a program finds the files it came with, and one that
// writes beside them is told so at once instead of writing where nobody looks. (systemd's default, "/", would find
// neither.) Its stdin is /dev/null, its umask 022. It stays in the foreground: when the main process ends, the rest is
// stopped.
//
// # When it is ready
//
// With a health check: when that succeeds. Without: when it has sent READY=1; or, if it has sent nothing at all to
// NOTIFY_SOCKET, when all its ports accept connections, or, without ports, when it has been alive for one second. A
// program that notifies but may be silent or listening before it is ready says so with Health.Notify.
package process
