package domain

import "time"

// Command is one intent. It brings its own id, time and everything random, so that deciding it twice gives the
// same answer.
type Command struct {
	ID     string // the Idempotency-Key of the caller, or derived by a policy from its cause
	Type   string // "GrantCredit"
	Stream Stream
	Data   []byte // the body as received
	Time   time.Time
	// Expected is the version the stream must have: nil for any, 0 for a stream that must not exist yet.
	Expected    *uint64
	Correlation string
	Causation   string
	TraceParent string

	// Payload is Data decoded through the Types table. A Policy fills only this.
	Payload any
}

// Ask wraps a payload of a registered Go type as a command for a Policy to return. The writer fills in the rest.
func Ask(payload any) Command { return Command{Payload: payload} }
