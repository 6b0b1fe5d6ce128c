package projections

import (
	"encoding/binary"
	"math"
	"strconv"
	"strings"

	"github.com/penstock-io/penstock/eventstore"
	"github.com/prometheus/client_golang/prometheus"
)

// deliveryMetrics reads at every scrape what the read models know. Like their rows the figures are the same on every
// node and outlive restarts: add them up over sources, never over nodes.
type deliveryMetrics struct {
	deliveries, parked *View
	sources            []string // always shown, also with nothing to tell
	depth, retries     *prometheus.Desc
}

// RegisterDeliveryMetrics adds webhook_dlq_depth{source} and webhook_retry_count{source,attempt} to r, from the views of
// Deliveries and Parked. Sources are named besides those that the views know.
func RegisterDeliveryMetrics(r prometheus.Registerer, deliveries, parked *View, sources []string) error {
	return r.Register(deliveryMetrics{
		deliveries: deliveries, parked: parked, sources: sources,
		depth: prometheus.NewDesc("webhook_dlq_depth",
			"Deliveries that are parked now, by source; the same on every node.", []string{"source"}, nil),
		retries: prometheus.NewDesc("webhook_retry_count",
			"Retries of the provider that came in, by source and by which try it was, from 2 to 5 and more; the same on every node.",
			[]string{"source", "attempt"}, nil),
	})
}

func (m deliveryMetrics) Describe(out chan<- *prometheus.Desc) {
	out <- m.depth
	out <- m.retries
}

func (m deliveryMetrics) Collect(out chan<- prometheus.Metric) {
	depths, retries := map[string]uint64{}, map[string][maxAttempt + 1]uint64{}
	for _, s := range m.sources {
		depths[s], retries[s] = 0, [maxAttempt + 1]uint64{}
	}
	err := counts(m.parked, indexWaiting, func(source string, n uint64) { depths[source] = n })
	for source, n := range depths {
		value := float64(n)
		if err != nil { // being built for the first time, or broken: an error here would take all other metrics along
			value = math.NaN()
		}
		out <- prometheus.MustNewConstMetric(m.depth, prometheus.GaugeValue, value, source)
	}
	err = counts(m.deliveries, indexRetries, func(key string, n uint64) {
		source, attempt, _ := strings.Cut(key, "\x00")
		of := retries[source]
		of[attempt[0]] = n
		retries[source] = of
	})
	if err != nil {
		return
	}
	for source, of := range retries {
		for attempt := 2; attempt <= maxAttempt; attempt++ {
			label := strconv.Itoa(attempt)
			if attempt == maxAttempt {
				label += "+"
			}
			out <- prometheus.MustNewConstMetric(m.retries, prometheus.CounterValue, float64(of[attempt]), source, label)
		}
	}
}

// counts reads an index of numbers.
func counts(v *View, name string, each func(key string, n uint64)) error {
	return v.readOwn(func(tx *eventstore.Tx) error {
		index, err := tx.Index(name)
		if err != nil {
			return err
		}
		index.Scan(nil, func(k, n []byte) bool {
			each(string(k), binary.BigEndian.Uint64(n))
			return true
		})
		return nil
	})
}

// count adds to a number of an index.
func count(tx *eventstore.Tx, name, key string, by int64) error {
	index, err := tx.Index(name)
	if err != nil {
		return err
	}
	var n uint64
	if b := index.Get([]byte(key)); b != nil {
		n = binary.BigEndian.Uint64(b)
	}
	return index.Put([]byte(key), binary.BigEndian.AppendUint64(nil, n+uint64(by)))
}
