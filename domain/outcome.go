package domain

import "time"

// Status is what became of one delivery or command.
type Status string

// The statuses. Every inbox record ends in exactly one of them.
const (
	Accepted  Status = "accepted"  // its events stand in the log
	Duplicate Status = "duplicate" // the id was handled before; nothing happened again
	Refused   Status = "rejected"  // a rule, an expected version or the body's shape said no
	Parked    Status = "parked"    // it could not be handled; an operator decides
	Discarded Status = "discarded" // it was parked, and an operator dropped it
)

// Outcome records what became of one inbox record. It is written to the outcomes topic in the same transaction as
// the events it tells of.
type Outcome struct {
	Kind         string     `json:"kind"` // "delivery" or "command"
	ID           string     `json:"id"`   // delivery id or command id
	Source       string     `json:"source"`
	Type         string     `json:"type"`
	Stream       Stream     `json:"stream"`
	Status       Status     `json:"status"`
	Original     Status     `json:"original,omitempty"` // of a duplicate: what became of the first one, which this repeats
	Class        Class      `json:"class,omitempty"`    // of a refusal
	Rule         string     `json:"rule,omitempty"`
	Field        string     `json:"field,omitempty"`
	Message      string     `json:"message,omitempty"`
	Actual       uint64     `json:"actual,omitempty"` // Conflict: the version the stream has
	Version      uint64     `json:"version"`          // of the stream afterwards
	Events       []EventRef `json:"events,omitempty"`
	Commands     []string   `json:"commands,omitempty"` // ids of the commands that policies asked for
	Items        int        `json:"items,omitempty"`    // of a batch: how many deliveries it was taken apart into
	Verification string     `json:"verification,omitempty"`
	Received     time.Time  `json:"received"`
	Handled      time.Time  `json:"handled"`
	Size         int        `json:"size"`             // bytes of the body
	Digest       string     `json:"digest,omitempty"` // of a command's type and body: the same id with another digest is a misuse
	Correlation  string     `json:"correlationid,omitempty"`
	ParkedAt     *int64     `json:"parked_at,omitempty"` // Parked: offset in the parked topic, in the outcome's partition
	Release      string     `json:"release,omitempty"`   // of a parked one: "requeue" or "discard", by whom and why
	By           string     `json:"by,omitempty"`
	Note         string     `json:"note,omitempty"`
	ReplayOf     string     `json:"replay_of,omitempty"` // of a replay: the delivery id that it repeats, by whom and why
	Attempt      int        `json:"attempt,omitempty"`   // which try of the provider it was, as its header says; 0 when none does
	Partition    int32      `json:"partition"`
	Inbox        int64      `json:"inbox"` // offset of the inbox record
}

// EventRef points at one event in the log.
type EventRef struct {
	ID      string `json:"id"`
	Type    string `json:"type"`
	Version uint64 `json:"version"`
	Offset  int64  `json:"offset"` // in the events topic, in the outcome's partition
}
