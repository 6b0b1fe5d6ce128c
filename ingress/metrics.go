package ingress

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// noSource labels requests for sources that don't exist: a label taken from the path would let anyone make series.
// No source can be called so.
const noSource = "_unknown"

type metrics struct {
	received *prometheus.CounterVec
	duration *prometheus.HistogramVec
	failures *prometheus.CounterVec
}

func newMetrics() metrics {
	return metrics{
		received: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "webhook_deliveries_received_total",
			Help: "Webhook requests answered, by source and HTTP status. 202 is durable.",
		}, []string{"source", "status"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "webhook_processing_duration_seconds",
			Help: "From the request's headers read to its answer, reading of the body and the append included.",
			// Around Slack's limit of 3 s and the log's millisecond.
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2, 3, 5},
		}, []string{"source"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "webhook_signature_failures_total",
			Help: "Webhook requests whose signature was refused, by source and reason.",
		}, []string{"source", "reason"}),
	}
}

func (m metrics) register(r prometheus.Registerer) error {
	if err := errors.Join(r.Register(m.received), r.Register(m.duration), r.Register(m.failures)); err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	return nil
}
