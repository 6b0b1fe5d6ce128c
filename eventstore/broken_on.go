//go:build broken

package eventstore

import "os"

var broken = os.Getenv("PENSTOCK_BROKEN")

// Broken reports whether this build is to be broken in the named way. Never in a build that anybody uses.
func Broken(way string) bool { return broken == way }
