package commands

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/prometheus/client_golang/prometheus"
)

// Pressure keeps the inbox from growing without a bound when more comes in than is handled: beyond a lag, appends to
// that partition are refused until it has shrunk, and other partitions go on. Every node sees the same lag, because it
// is what the log says.
type Pressure struct {
	log     *eventstore.Log
	history *eventstore.History
	limit   int64
	lags    []atomic.Int64
	gauge   *prometheus.GaugeVec
}

// DefaultLagLimit is how many inbox offsets of one partition may wait to be handled.
const DefaultLagLimit = 200_000

// NewPressure allows a lag of limit offsets in each partition.
func NewPressure(l *eventstore.Log, h *eventstore.History, limit int64, metrics prometheus.Registerer) *Pressure {
	p := &Pressure{log: l, history: h, limit: limit, lags: make([]atomic.Int64, l.Partitions()),
		gauge: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "penstock_inbox_lag",
			Help: "Inbox offsets that wait to be handled, by partition, whichever node owns it."}, []string{"partition"})}
	if metrics != nil {
		metrics.MustRegister(p.gauge)
	}
	return p
}

// Run measures until ctx ends. While Kafka can't be asked, the last measure holds.
func (p *Pressure) Run(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if err := p.measure(ctx); err != nil && domain.ClassOf(err) != domain.Unavailable && ctx.Err() == nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (p *Pressure) measure(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	end, err := p.log.End(ctx, p.log.Topics.Inbox)
	if err != nil {
		return err
	}
	start, err := p.log.Start(ctx, p.log.Topics.Inbox)
	if err != nil {
		return err
	}
	for i := range p.lags {
		handled, err := p.history.Handled(int32(i))
		if err != nil {
			return fmt.Errorf("measure the lag of partition %d: %w", i, err)
		}
		lag := max(0, end.Next[i]-max(handled, start.Next[i]))
		if lag == 1 {
			lag = 0 // the marker of a transaction that brought follow-up commands
		}
		p.lags[i].Store(lag)
		p.gauge.WithLabelValues(strconv.Itoa(i)).Set(float64(lag))
	}
	return nil
}

// Admit refuses an append to the partition of s while too much waits there.
func (p *Pressure) Admit(s domain.Stream) error {
	if lag := p.lags[p.log.PartitionOf(s)].Load(); lag > p.limit {
		return &domain.Error{Class: domain.Unavailable, Rule: "backlog", Message: fmt.Sprintf("%d entries already wait to be handled", lag)}
	}
	return nil
}

// Append is Log.Append for what is admitted.
func (p *Pressure) Append(ctx context.Context, e eventstore.Entry) error {
	if err := p.Admit(e.Stream); err != nil {
		return err
	}
	return p.log.Append(ctx, e)
}

// AppendAll is Log.AppendAll for entries of one partition that is admitted.
func (p *Pressure) AppendAll(ctx context.Context, entries []eventstore.Entry) []error {
	if len(entries) > 0 {
		if err := p.Admit(entries[0].Stream); err != nil {
			errs := make([]error, len(entries))
			for i := range errs {
				errs[i] = err
			}
			return errs
		}
	}
	return p.log.AppendAll(ctx, entries)
}
