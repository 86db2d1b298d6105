// Package model decides: it holds the values that every node agrees on and the pure functions over them.
//
// It reads no clock, does no I/O, starts no goroutine and draws no random number; what varies comes in as an
// argument, so that the same arguments give the same answer on every machine and in every test.
//
//	files --Parse--> Model --Compose--> Manifest --Diff--> Plan      what an operator asks for
//	State --Next---> Steps                                           what one node should do now
//	State --Decide-> Commands                                        what the leader should propose now
//	State --CanStart, CanStop                                        the gates, checked again when a claim is applied
//
// The nouns (Service, Instance, Row, Manifest, Generation, Intent, Phase, Step ...) are those of DESIGN.md.
package model
