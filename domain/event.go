package domain

import "time"

// Event is one recorded fact. Its fields are the CloudEvents 1.0.2 attributes and extensions that stand in the
// headers of the Kafka record; Data is the record's value, byte for byte.
type Event struct {
	ID          string    // unique in the log
	Type        string    // "github.pull_request.opened", "billing.credit.granted"
	Source      string    // "/sources/github" or "/commands/GrantCredit"
	Stream      Stream    // ce_subject
	Version     uint64    // 1, 2, 3 … within the stream, without a hole
	Schema      int       // version of the payload's form, see EventOf; 0 is the first, like 1
	Time        time.Time // UTC
	ContentType string
	Data        []byte

	// Correlation is the id of the first cause, Causation the id of the direct one: a delivery or a command.
	Correlation string
	Causation   string
	TraceParent string // W3C Trace Context
	// Delivery is the provider's delivery id, for an event that a webhook brought. Verification says how that
	// webhook was verified: scheme and binding class, for example "github; body".
	Delivery     string
	Verification string
	// ReplayOf is the delivery id that Delivery repeats, when an operator had a delivery handled once more.
	ReplayOf string

	// Payload is Data decoded through the Types table; nil for types that are not in it. A Decider fills only this.
	Payload any
}

// Fact wraps a payload of a registered Go type as an event for a Decider to return. The writer fills in the rest.
func Fact(payload any) Event { return Event{Payload: payload} }
