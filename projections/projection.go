// Package projections keeps read models: tables that are the fold of the log, at all times and after any crash.
package projections

import (
	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
)

// Projection folds events into the rows of a table.
type Projection interface {
	// Name is the projection's name in URLs and file names: lower-case letters, digits and '-'.
	Name() string
	// Version changes when Apply would give other rows for the same events. A changed version is built anew, from
	// the beginning of the log, in a file of its own.
	Version() int
	// Apply folds one event into tx. Events of a stream come in order, once each; events of different streams come
	// in any order between partitions, so a row should depend on streams of one partition or on sums.
	// Apply must be deterministic: no clock, no randomness, no map order, nothing but tx and the event. The engine
	// owns the transaction: an error undoes the batch and halts this projection, and nothing else. tx and the
	// byte slices it gives are valid only until Apply returns, and the event's data belongs to all who read it.
	// Package projectiontest finds out whether it keeps to this.
	Apply(tx *eventstore.Tx, e domain.Event) error
}

// OutcomeProjection is a Projection that folds the outcomes topic instead of the events topic: Apply is not called,
// unless it says that it wants both.
type OutcomeProjection interface {
	Projection
	ApplyOutcome(tx *eventstore.Tx, o domain.Outcome) error
}

// bothTopics marks the one projection that folds events and outcomes into the same table, each at its own position.
// Its rows come from the events.
type bothTopics interface {
	OutcomeProjection
	FoldsEventsToo()
}
