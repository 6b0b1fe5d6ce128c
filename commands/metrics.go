package commands

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	outcomes *prometheus.CounterVec
	commit   prometheus.Histogram
	batch    prometheus.Histogram
	fenced   prometheus.Counter
	refused  *prometheus.CounterVec
	gained   prometheus.Counter
}

func newMetrics(r prometheus.Registerer) metrics {
	m := metrics{
		outcomes: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "penstock_outcomes_total",
			Help: "Inbox entries handled by this node, by kind and what became of them."}, []string{"kind", "status"}),
		commit: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "penstock_commit_seconds",
			Help: "Time of one transaction.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14)}),
		batch: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "penstock_commit_entries",
			Help: "Inbox entries of one transaction.", Buckets: prometheus.ExponentialBuckets(1, 4, 7)}),
		fenced: prometheus.NewCounter(prometheus.CounterOpts{Name: "penstock_writer_fenced_total",
			Help: "Times that another node took a partition over while this one still wrote to it."}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "penstock_refusals_total",
			Help: "Commands refused, by class and by the rule that said no."}, []string{"class", "rule"}),
		gained: prometheus.NewCounter(prometheus.CounterOpts{Name: "penstock_partitions_gained_total",
			Help: "Times that a partition was assigned to this node."}),
	}
	if r != nil {
		r.MustRegister(m.refused, m.gained, m.outcomes, m.commit, m.batch, m.fenced)
	}
	return m
}
