package eventstore

import "github.com/penstock-io/penstock/domain"

// Errors of reading the log. None of them is ever answered with a silent jump to another position.
var (
	// ErrReset: the topic is not the one the position was taken from: deleted and created anew, or another cluster.
	ErrReset = &domain.Error{Class: domain.Conflict, Rule: "reset", Message: "the log is another one than the cursor's"}
	// ErrRetired: the table that was to be read has been replaced by a newer generation.
	ErrRetired = &domain.Error{Class: domain.Conflict, Rule: "reset", Message: "another generation of the projection serves now"}
	// ErrDamaged: the file of a table doesn't hold what was written to it.
	ErrDamaged = &domain.Error{Class: domain.Corrupt, Rule: "damaged", Message: "the file is damaged"}
	// ErrExpired: retention or an operator has removed records that the position still needed.
	ErrExpired = &domain.Error{Class: domain.Conflict, Rule: "expired", Message: "the log no longer reaches back to the cursor"}
	// ErrFuture: the position lies beyond the end: the log was truncated, or the cursor is foreign.
	ErrFuture = &domain.Error{Class: domain.Conflict, Rule: "future", Message: "the cursor lies beyond the end of the log"}
	// ErrClosed: the log is no longer followed, because the node stops or the log failed.
	ErrClosed = &domain.Error{Class: domain.Unavailable, Rule: "closed", Message: "the log is not followed any more"}
	// ErrFenced: another node owns the partition now. Nothing of the batch was committed.
	ErrFenced = &domain.Error{Class: domain.Unavailable, Rule: "fenced", Message: "another writer owns the partition"}
	// ErrUnknown: whether the batch was committed can't be told without reading the log to its end.
	ErrUnknown = &domain.Error{Class: domain.Unavailable, Rule: "unknown-outcome", Message: "the outcome of the commit is unknown"}
)
