package penstock

import "time"

// Run is the command line, for the tests outside of this package.
var Run = run

// SourceOf is a source as the configuration has it.
var SourceOf = Config.source

// SetUnanswered shortens how long the node believes in a client that acknowledges nothing.
func (n *Node) SetUnanswered(d time.Duration) { n.unanswered = d }
