package ingress

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type spoolMetrics struct{ spooled, drained, refused prometheus.Counter }

func newSpoolMetrics() spoolMetrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	return spoolMetrics{
		spooled: counter("penstock_spooled_total", "Deliveries accepted onto this node's disk, because the log didn't acknowledge in time."),
		drained: counter("penstock_spool_drained_total", "Deliveries that the log took from the spool."),
		refused: counter("penstock_spool_refused_total", "Spooled deliveries that the log will never take; they are set aside."),
	}
}

func (s *Spool) register(r prometheus.Registerer) error {
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			s.mu.Lock()
			defer s.mu.Unlock()
			return value()
		})
	}
	var errs []error
	for _, c := range []prometheus.Collector{
		s.metrics.spooled, s.metrics.drained, s.metrics.refused,
		gauge("penstock_spool_records", "Deliveries that wait on this node's disk for the log.", func() float64 { return float64(s.records) }),
		gauge("penstock_spool_bytes", "Bytes of the spool's segments, what is done in them included.", func() float64 { return float64(s.bytes) }),
		gauge("penstock_spool_oldest_seconds", "Age of the oldest delivery that waits; 0 if none does.", func() float64 {
			if at := s.oldest(); !at.IsZero() {
				return max(0, time.Since(at).Seconds())
			}
			return 0
		}),
	} {
		errs = append(errs, r.Register(c))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	return nil
}
