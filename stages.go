package penstock

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// stage is one long-lived part of a node: run blocks until its context ends, and returns nil then.
type stage struct {
	name string
	run  func(context.Context) error
	// patience is how long the stage may take to stop before the next one is told to, all the same.
	patience time.Duration
}

// runStages starts the stages in order and blocks. When ctx ends, or when one of them returns, it stops them in the
// reverse order, each waited for, so that whatever a stage still needs is there until it is done. It returns the first
// failure.
func runStages(ctx context.Context, logger *slog.Logger, stages []stage) error {
	type running struct {
		stage
		cancel context.CancelFunc
		done   chan struct{}
		err    error
	}
	parts := make([]*running, 0, len(stages))
	ended := make(chan *running, len(stages))
	for _, s := range stages {
		own, cancel := context.WithCancel(context.WithoutCancel(ctx))
		r := &running{stage: s, cancel: cancel, done: make(chan struct{})}
		parts = append(parts, r)
		go func() {
			r.err = s.run(own)
			close(r.done)
			ended <- r
		}()
	}
	var failure error
	select {
	case <-ctx.Done():
	case r := <-ended:
		failure = fmt.Errorf("%s: %w", r.name, errors.Join(r.err, errEnded(r.err)))
	}
	for i := len(parts) - 1; i >= 0; i-- {
		r := parts[i]
		r.cancel()
		select {
		case <-r.done:
			if r.err != nil && failure == nil {
				failure = fmt.Errorf("%s: %w", r.name, r.err)
			}
		case <-time.After(r.patience):
			logger.Error("a stage is late to stop", "stage", r.name, "waited", r.patience)
			if failure == nil {
				failure = fmt.Errorf("%s did not stop within %s", r.name, r.patience)
			}
		}
	}
	return failure
}

// errEnded: a stage that returns before it is told to has failed, even if it doesn't say so.
func errEnded(err error) error {
	if err == nil {
		return errors.New("it ended by itself")
	}
	return nil
}
