package domain

import "fmt"

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
}

// AnyDecider is a Decider with its state type erased, so that deciders of different states stand in one list.
// Only Decider implements it.
type AnyDecider interface {
	Owns() string
	NewState() any
	DecideAny(state any, c Command) ([]Event, error)
	EvolveAny(state any, e Event) any
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

// Check reports a decider that lacks a part.
func (d Decider[S]) Check() error {
	if d.Category == "" || d.Initial == nil || d.Decide == nil || d.Evolve == nil {
		return fmt.Errorf("decider %q needs Category, Initial, Decide and Evolve", d.Category)
	}
	return nil
}
