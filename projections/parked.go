package projections

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
)

// Parked is the list of what could not be handled, from the outcomes: one row for each entry that was ever parked.
type Parked struct{}

// ParkedRow is a row of "parked", keyed by its id.
type ParkedRow struct {
	ID        string        `json:"id" doc:"partition and inbox offset, for example 4-17"`
	State     string        `json:"state" enum:"waiting,requeued,discarded"`
	Kind      string        `json:"kind" enum:"delivery,command,foreign"`
	Source    string        `json:"source"`
	EntryID   string        `json:"entry_id" doc:"delivery id or command id"`
	Type      string        `json:"type"`
	Stream    domain.Stream `json:"stream" doc:"later entries of it are parked behind this one"`
	Reason    string        `json:"reason" doc:"of the last try; for a panic with its stack"`
	Tries     int           `json:"tries"`
	Received  time.Time     `json:"received"`
	Parked    time.Time     `json:"parked" doc:"the last try"`
	Released  *time.Time    `json:"released,omitempty"`
	By        string        `json:"by,omitempty" doc:"who released it"`
	Note      string        `json:"note,omitempty" doc:"and why"`
	Outcome   domain.Status `json:"outcome,omitempty" doc:"what became of it when it was requeued"`
	Partition int32         `json:"partition"`
	ParkedAt  int64         `json:"parked_at" doc:"offset in the parked topic"`
}

const (
	indexByCause = "by-cause" // finds the row of an entry that is handled again
	indexWaiting = "waiting"  // source → how many of its deliveries wait
)

// Name is "parked".
func (Parked) Name() string { return "parked" }

// Version of the fold.
func (Parked) Version() int { return 2 }

// Apply is not called: what is parked is a fold of the outcomes.
func (Parked) Apply(*eventstore.Tx, domain.Event) error { return nil }

// ApplyOutcome folds what was parked, and what became of it.
func (Parked) ApplyOutcome(tx *eventstore.Tx, o domain.Outcome) error {
	if o.Status == domain.Duplicate || o.Status != domain.Parked && o.Release == "" {
		return nil
	}
	causes, err := tx.Index(indexByCause)
	if err != nil {
		return err
	}
	cause := []byte(eventstore.Entry{Kind: o.Kind, Source: o.Source, ID: o.ID}.Cause())
	var row ParkedRow
	if key := causes.Get(cause); key != nil {
		if err := json.Unmarshal(tx.Get(string(key)), &row); err != nil {
			return fmt.Errorf("row %s: %w", key, err)
		}
	} else {
		row = ParkedRow{ID: fmt.Sprintf("%d-%d", o.Partition, o.Inbox), Kind: o.Kind, Source: o.Source, EntryID: o.ID, Type: o.Type,
			Stream: o.Stream, Received: o.Received, Partition: o.Partition}
		if err := causes.Put(cause, []byte(row.ID)); err != nil {
			return err
		}
	}
	was := row.State
	if o.Status == domain.Parked {
		row.State, row.Reason, row.Parked, row.Tries = "waiting", o.Message, o.Handled, row.Tries+1
		if o.ParkedAt != nil {
			row.ParkedAt = *o.ParkedAt
		}
	} else {
		row.State, row.Released, row.Outcome = "requeued", &o.Handled, o.Status
		if o.Release == eventstore.Discard {
			row.State, row.Outcome = "discarded", ""
		}
	}
	if o.Kind == eventstore.KindDelivery && (was == "waiting") != (row.State == "waiting") {
		change := int64(1)
		if was == "waiting" {
			change = -1
		}
		if err := count(tx, indexWaiting, o.Source, change); err != nil {
			return err
		}
	}
	row.By, row.Note = o.By, o.Note
	return putJSON(tx, row.ID, row)
}
