package penstock

import (
	"net"
	"net/http"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// defaultConnections is max_connections unless it is set.
const defaultConnections = 10_000

// connections bounds those that the HTTP server keeps. Each may hold headers of up to MaxHeaderBytes before anybody knows
// who sends them, so without a bound memory is up to whoever connects. Feeds leave the server and have bounds of their own.
type connections struct {
	most    int64
	open    atomic.Int64
	refused prometheus.Counter
}

func newConnections(most int) *connections {
	if most == 0 {
		most = defaultConnections
	}
	return &connections{most: int64(most), refused: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "penstock_http_connections_refused_total", Help: "Connections that were closed at once, because max_connections were open.",
	})}
}

// Collect and Describe make it a collector of its own metrics.
func (c *connections) Collect(to chan<- prometheus.Metric) {
	to <- prometheus.MustNewConstMetric(openConnections, prometheus.GaugeValue, float64(c.open.Load()))
	c.refused.Collect(to)
}

func (c *connections) Describe(to chan<- *prometheus.Desc) {
	to <- openConnections
	c.refused.Describe(to)
}

var openConnections = prometheus.NewDesc("penstock_http_connections", "Connections of the HTTP server, without feeds.", nil, nil)

// state is the server's ConnState. Each connection comes once as new and leaves once, closed or hijacked.
func (c *connections) state(conn net.Conn, s http.ConnState) {
	switch s {
	case http.StateNew:
		if c.open.Add(1) > c.most {
			c.refused.Inc()
			conn.Close() // the server finds out when it reads, and says StateClosed
		}
	case http.StateClosed, http.StateHijacked:
		c.open.Add(-1)
	}
}
