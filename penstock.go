// Package penstock turns webhooks into an event-sourced system that other people can build on.
//
// Verified webhooks and checked commands become immutable events in Kafka, projections fold them into read models in
// bbolt, and feeds stream them. A business is an App value: what its events are called, how its aggregates decide, what
// webhooks mean to it, which read models it wants. Main runs it; Node is the same as a value, for tests and for
// programs with other things to do.
package penstock

import (
	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/projections"
)

// Version of Penstock, set when a release is built.
var Version = "dev"

// App is what a business brings. All of it is pure: no part does I/O.
type App struct {
	Types       domain.Types
	Deciders    []domain.AnyDecider
	Policies    []domain.Policy
	Projections []projections.Projection
}
