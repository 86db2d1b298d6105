// Package activate says what a module is: what knows how to prepare, start, stop and observe instances of one type.
//
// The package holds what all modules share: the instance in plain types, the interface, and the errors that tell an
// operator why an instance did not come up. Modules are its sub-packages; keeper is the process that runs what they
// start. A module executes decisions, it takes none: when to restart, what to roll back and in which order is decided
// by whoever calls it.
package activate
