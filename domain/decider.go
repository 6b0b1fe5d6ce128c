package domain

import (
	"encoding/json"
	"fmt"
)

// Decider is everything an aggregate is, as pure functions over a state S.
//
// Decide and Evolve must be deterministic: no clock, no randomness, no map order, nothing outside their arguments.
// Neither may keep or change what it is given beyond what it returns. The events of one Decide are recorded
// atomically; none means that the command was accepted and changed nothing. An error of class Rejected refuses the
// command by a named rule; any other error counts as a defect and parks the record.
type Decider[S any] struct {
	// Category of the streams this decider owns. Commands whose stream has this category come here.
	Category string
	// Initial returns a fresh state for a stream without events.
	Initial func() S
	Decide  func(S, Command) ([]Event, error)
	Evolve  func(S, Event) S
	// Snapshot, if set, lets the state of a long stream be kept, so that loading it doesn't fold all of its events.
	Snapshot *Snapshot[S]
}

// Snapshot says how to keep a state. Decode(Encode(s)) must behave like s.
type Snapshot[S any] struct {
	// Version changes when Evolve, or the encoding, would give other bytes: a snapshot of another version is ignored.
	Version int
	Encode  func(S) ([]byte, error)
	Decode  func([]byte) (S, error)
}

// JSONSnapshot keeps a state as JSON.
func JSONSnapshot[S any](version int) *Snapshot[S] {
	return &Snapshot[S]{
		Version: version,
		Encode:  func(s S) ([]byte, error) { return json.Marshal(s) },
		Decode: func(b []byte) (s S, err error) {
			err = json.Unmarshal(b, &s)
			return s, err
		},
	}
}

// AnyDecider is a Decider with its state type erased, so that deciders of different states stand in one list.
// Only Decider implements it.
type AnyDecider interface {
	Owns() string
	NewState() any
	DecideAny(state any, c Command) ([]Event, error)
	EvolveAny(state any, e Event) any
	// SnapshotVersion is 0 for a decider whose states are not kept.
	SnapshotVersion() int
	EncodeAny(state any) ([]byte, error)
	DecodeState([]byte) (any, error)
	Check() error
}

// Owns returns the category of the decider's streams.
func (d Decider[S]) Owns() string { return d.Category }

// NewState returns the erased initial state.
func (d Decider[S]) NewState() any { return d.Initial() }

// DecideAny is Decide on an erased state.
func (d Decider[S]) DecideAny(state any, c Command) ([]Event, error) { return d.Decide(state.(S), c) }

// EvolveAny is Evolve on an erased state.
func (d Decider[S]) EvolveAny(state any, e Event) any { return d.Evolve(state.(S), e) }

// SnapshotVersion is the Version of Snapshot, 0 without one.
func (d Decider[S]) SnapshotVersion() int {
	if d.Snapshot == nil {
		return 0
	}
	return d.Snapshot.Version
}

// EncodeAny is Snapshot.Encode on an erased state.
func (d Decider[S]) EncodeAny(state any) ([]byte, error) { return d.Snapshot.Encode(state.(S)) }

// DecodeState is Snapshot.Decode with its result erased.
func (d Decider[S]) DecodeState(b []byte) (any, error) { return d.Snapshot.Decode(b) }

// Check reports a decider that lacks a part.
func (d Decider[S]) Check() error {
	if d.Category == "" || d.Initial == nil || d.Decide == nil || d.Evolve == nil {
		return fmt.Errorf("decider %q needs Category, Initial, Decide and Evolve", d.Category)
	}
	if s := d.Snapshot; s != nil && (s.Version < 1 || s.Encode == nil || s.Decode == nil) {
		return fmt.Errorf("the snapshot of decider %q needs Encode, Decode and a Version from 1 on", d.Category)
	}
	return nil
}
