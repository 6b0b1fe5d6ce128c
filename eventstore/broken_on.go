//go:build broken

package eventstore

import (
	"os"
	"slices"
	"strings"
)

var broken = strings.Split(os.Getenv("PENSTOCK_BROKEN"), ",")

// Broken reports whether this build is to be broken in the named way, perhaps among others. Never in a build that
// anybody uses.
func Broken(way string) bool { return slices.Contains(broken, way) }
