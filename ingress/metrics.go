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
	dropped  *prometheus.CounterVec
	limited  *prometheus.CounterVec
	broken   *prometheus.GaugeVec
	inFlight prometheus.GaugeFunc
}

func newMetrics(inFlight *allowance) metrics {
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
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "webhook_dropped_total",
			Help: "Verified deliveries that a rule of the source's `when` dropped, by source and rule. They were answered with 200.",
		}, []string{"source", "rule"}),
		limited: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "webhook_rate_limited_total",
			Help: "Webhook requests answered with 429, by source and by whose limit it was: the client's or the source's.",
		}, []string{"source", "scope"}),
		broken: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "webhook_allow_file_broken",
			Help: "1 while a source's allow_file, as it is now, can't be used and the last good one stays.",
		}, []string{"source"}),
		inFlight: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "webhook_in_flight_bytes",
			Help: "Bytes of webhook bodies, and of what was made of them, that are being handled.",
		}, func() float64 { return float64(inFlight.used.Load()) }),
	}
}

func (m metrics) register(r prometheus.Registerer) error {
	var errs []error
	for _, c := range []prometheus.Collector{m.received, m.duration, m.failures, m.dropped, m.limited, m.broken, m.inFlight} {
		errs = append(errs, r.Register(c))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	return nil
}
