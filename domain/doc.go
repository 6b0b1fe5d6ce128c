// Package domain is the language of Penstock: streams, events, commands, deciders and policies.
//
// It does no I/O, reads no clock and imports only the standard library, so that a business written in it is tested
// with plain tables: given these events, when this command, then those events or that refusal.
package domain
