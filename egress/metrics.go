package egress

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// transport is how a feed travels.
type transport string

const (
	overSSE       transport = "sse"
	overWebSocket transport = "websocket"
	overLongPoll  transport = "long-poll"
	overNDJSON    transport = "ndjson"
)

// The reasons to end an open feed, beside those to refuse one.
const (
	slow         = "slow"
	stalled      = "stalled"
	reset        = "reset"
	unavailable  = "unavailable"
	disconnected = "disconnected"
	lifetime     = "lifetime"
	done         = "done"
	filterCost   = "filter-cost"
	protocol     = "protocol"
)

// metrics are the feeds' figures. WebSockets have names of their own, which dashboards for such servers know; the other
// transports share theirs under a label.
type metrics struct {
	of  map[transport]transportMetrics
	all []prometheus.Collector
}

type transportMetrics struct {
	active                prometheus.Gauge
	total, sent, received prometheus.Counter
	latency               prometheus.Observer
	errors                map[string]prometheus.Counter // by reason
	drops                 map[string]prometheus.Counter
}

func (m transportMetrics) opened() { m.active.Inc(); m.total.Inc() }
func (m transportMetrics) closed() { m.active.Dec() }

// refused counts a connection that was not opened.
func (m transportMetrics) refused(reason string) { m.drops[reason].Inc() }

// ended counts a feed that this node has ended. Those that end as they should are no errors.
func (m transportMetrics) ended(reason string) {
	m.drops[reason].Inc()
	if c, ok := m.errors[reason]; ok {
		c.Inc()
	}
}

// delivered counts messages, and for those that came live how long after the event's arrival at this node they were
// handed to the connection.
func (m transportMetrics) delivered(n int, arrived time.Time) {
	m.sent.Add(float64(n))
	if !arrived.IsZero() {
		m.latency.Observe(float64(time.Since(arrived)) / float64(time.Millisecond))
	}
}

func newMetrics() metrics {
	m := metrics{of: map[transport]transportMetrics{}}
	buckets := []float64{5, 10, 25, 50, 100, 250, 500, 1000}
	const latency = "Milliseconds from an event's arrival at this node until it was handed to a connection that was waiting for it."
	active := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "feed_connections_active", Help: "Feeds that are open."}, []string{"transport"})
	total := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "feed_connections_total", Help: "Feeds that were opened."}, []string{"transport"})
	sent := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "feed_messages_sent_total", Help: "Events and row changes sent, each feed counted."}, []string{"transport"})
	latencies := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "feed_message_latency_ms", Help: latency, Buckets: buckets}, []string{"transport"})
	failures := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "feed_errors_total", Help: "Feeds that ended other than they should, by reason."}, []string{"transport", "reason"})
	drops := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "penstock_feed_drops_total",
		Help: "Feeds refused or ended by this node, by reason. No event is lost: the client resumes at its cursor.",
	}, []string{"reason", "transport"})
	ws := struct {
		active                prometheus.Gauge
		total, sent, received prometheus.Counter
		latency               prometheus.Histogram
		errors                *prometheus.CounterVec
	}{
		prometheus.NewGauge(prometheus.GaugeOpts{Name: "ws_connections_active", Help: "WebSockets that are open."}),
		prometheus.NewCounter(prometheus.CounterOpts{Name: "ws_connections_total", Help: "WebSockets that were opened."}),
		prometheus.NewCounter(prometheus.CounterOpts{Name: "ws_messages_sent_total", Help: "Events and row changes sent, each WebSocket counted."}),
		prometheus.NewCounter(prometheus.CounterOpts{Name: "ws_messages_received_total", Help: "Messages of clients."}),
		prometheus.NewHistogram(prometheus.HistogramOpts{Name: "ws_message_latency_ms", Help: latency, Buckets: buckets}),
		prometheus.NewCounterVec(prometheus.CounterOpts{Name: "ws_errors_total", Help: "WebSockets that ended other than they should, by reason."}, []string{"reason"}),
	}
	m.all = []prometheus.Collector{active, total, sent, latencies, failures, drops, ws.active, ws.total, ws.sent, ws.received, ws.latency, ws.errors}
	for _, t := range []transport{overSSE, overLongPoll, overNDJSON, overWebSocket} {
		of := transportMetrics{errors: map[string]prometheus.Counter{}, drops: map[string]prometheus.Counter{}}
		for _, reason := range []string{
			slow, stalled, reset, unavailable, disconnected, lifetime, done, filterCost, protocol,
			shuttingDown.reason, nodeFull.reason, clientFull.reason, principalFull.reason, wrongOrigin.reason,
		} {
			of.drops[reason] = drops.WithLabelValues(reason, string(t))
		}
		for _, reason := range []string{slow, stalled, reset, unavailable, filterCost, protocol} {
			if t == overWebSocket {
				of.errors[reason] = ws.errors.WithLabelValues(reason)
			} else {
				of.errors[reason] = failures.WithLabelValues(string(t), reason)
			}
		}
		if t == overWebSocket {
			of.active, of.total, of.sent, of.received, of.latency = ws.active, ws.total, ws.sent, ws.received, ws.latency
		} else {
			name := string(t)
			of.active, of.total, of.sent = active.WithLabelValues(name), total.WithLabelValues(name), sent.WithLabelValues(name)
			of.latency = latencies.WithLabelValues(name)
		}
		m.of[t] = of
	}
	return m
}

func (m metrics) register(r prometheus.Registerer) error {
	var errs []error
	for _, c := range m.all {
		errs = append(errs, r.Register(c))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	return nil
}
