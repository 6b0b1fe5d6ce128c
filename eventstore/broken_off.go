//go:build !broken

package eventstore

// Broken is always false, and the compiler takes away what depends on it. Builds with the tag "broken" can be broken on
// purpose, to see that the checker of the fault tests notices: see faults/README.md.
func Broken(string) bool { return false }
