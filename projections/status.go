package projections

import (
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/prometheus/client_golang/prometheus"
)

// Status is what operators see of a view.
type Status struct {
	Name       string  `json:"name"`
	Version    int     `json:"version" doc:"version of the definition that the serving generation was built by"`
	Generation int     `json:"generation" doc:"number of the file that serves"`
	Previous   int     `json:"previous,omitempty" doc:"generation that is kept to go back to"`
	State      string  `json:"state" enum:"building,live,halted" doc:"building until it has once reached the end of the log"`
	Error      string  `json:"error,omitempty" doc:"why it halted"`
	Halted     *Halt   `json:"halted,omitempty" doc:"the record that it halted at"`
	Skips      []Skip  `json:"skips,omitempty" doc:"records that an operator had it leave out"`
	Lag        int64   `json:"lag" doc:"offsets still to apply over all partitions; an upper bound of the events"`
	LagSeconds float64 `json:"lag_seconds" doc:"age of the newest record applied, while there are newer ones"`
	Rows       int64   `json:"rows"`
	FileBytes  int64   `json:"file_bytes"`
	// ApplyMicros is the mean since the start of the process.
	ApplyMicros float64      `json:"apply_micros" doc:"mean time for a record, its share of the commit included"`
	Position    string       `json:"position"`
	Build       *BuildStatus `json:"build,omitempty" doc:"the generation that is built beside"`
	LastBuild   string       `json:"last_build,omitempty" doc:"how the last build ended, if not well"`
	Quarantined []string     `json:"quarantined,omitempty" doc:"damaged files that were put aside"`
}

// BuildStatus is how a build is doing.
type BuildStatus struct {
	Generation int       `json:"generation"`
	State      string    `json:"state" enum:"scanning,catching-up,halted"`
	Started    time.Time `json:"started"`
	Done       int64     `json:"done" doc:"offsets applied"`
	Total      int64     `json:"total" doc:"offsets of the log"`
	Rate       float64   `json:"rate" doc:"offsets a second"`
	Limit      int       `json:"limit,omitempty" doc:"records a second that it may take"`
	ETA        *float64  `json:"eta_seconds,omitempty"`
	Halted     *Halt     `json:"halted,omitempty"`
}

// Status reports how the view is doing.
func (v *View) Status() Status {
	g, now := v.now(), time.Now()
	m := g.table.Meta
	s := Status{Name: v.Name(), Version: m.Version, Generation: m.Generation, State: "live", FileBytes: g.table.Size(),
		Position: g.tail.End().String(), Quarantined: v.folder.quarantined()}
	s.Rows, _ = g.table.Rows() // 0 from a table that has just been replaced
	lag, age := g.lag(now)
	s.Lag, s.LagSeconds = lag, age.Seconds()
	g.mu.Lock()
	if len(g.live) < len(g.topics) || !g.built {
		s.State = "building"
	}
	if g.halted != nil {
		s.State, s.Error, s.Halted = "halted", g.halted.Error, g.halted
	}
	s.Skips = g.skips
	if g.applied > 0 {
		s.ApplyMicros = float64(g.spent.Microseconds()) / float64(g.applied)
	}
	g.mu.Unlock()
	if g.frozen && s.State == "live" {
		s.State = "building"
	}
	v.mu.Lock()
	b := v.build
	s.Previous, s.LastBuild = v.files.Previous, v.past
	v.mu.Unlock()
	if b != nil {
		s.Build = b.status(now)
		if b.gen != g && g.frozen {
			s.State = "building"
		}
	}
	return s
}

func (b *build) status(now time.Time) *BuildStatus {
	s := &BuildStatus{Generation: b.gen.table.Meta.Generation, Started: b.since, Done: b.gen.done(), Limit: b.rate}
	lag, _ := b.gen.lag(now)
	s.Total = s.Done + lag
	b.mu.Lock()
	s.State = b.state
	if d := now.Sub(b.here).Seconds(); d > 0 && s.Done > b.from {
		s.Rate = float64(s.Done-b.from) / d
		s.ETA = new(float64(lag) / s.Rate)
	}
	b.mu.Unlock()
	b.gen.mu.Lock()
	defer b.gen.mu.Unlock()
	if b.gen.halted != nil {
		s.State, s.Halted, s.ETA = "halted", b.gen.halted, nil
	}
	return s
}

// Retry has a halted projection try again.
func (v *View) Retry(now time.Time) error { return v.halted().resume(false, "", "", now) }

// Skip has a halted projection go on without the record that it halted at. Who and why stands in its status as long as
// the generation does: a rebuild tries the record again.
func (v *View) Skip(by, reason string, now time.Time) error {
	if _, ok := v.projection.(bothTopics); ok {
		return &domain.Error{Class: domain.Rejected, Rule: "not-skippable",
			Message: "the writers decide on " + v.Name() + ": without a record of it they would give a version twice. Mend the cause and retry"}
	}
	return v.halted().resume(true, by, reason, now)
}

// halted is the generation that an operator means: the one that is built, if that has halted, else the one that serves.
func (v *View) halted() *generation {
	if b := v.building(); b != nil {
		b.gen.mu.Lock()
		defer b.gen.mu.Unlock()
		if b.gen.halted != nil {
			return b.gen
		}
	}
	return v.now()
}

// engineMetrics collects what the views know at the moment of asking.
type engineMetrics struct {
	engine  *Engine
	applied *prometheus.CounterVec
	took    *prometheus.HistogramVec
	gauges  []viewGauge
}

type viewGauge struct {
	desc  *prometheus.Desc
	value func(Status) float64
}

func newEngineMetrics(e *Engine) *engineMetrics {
	gauge := func(name, help string, value func(Status) float64) viewGauge {
		return viewGauge{prometheus.NewDesc("penstock_projection_"+name, help, []string{"projection"}, nil), value}
	}
	yes := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	return &engineMetrics{
		engine: e,
		applied: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "penstock_projection_records_total",
			Help: "Records applied, by projection."}, []string{"projection"}),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "penstock_projection_apply_seconds",
			Help: "Time of one batch, its commit included.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14)}, []string{"projection"}),
		gauges: []viewGauge{
			gauge("lag", "Offsets still to apply.", func(s Status) float64 { return float64(s.Lag) }),
			gauge("lag_seconds", "Age of the newest record applied, while there are newer ones.", func(s Status) float64 { return s.LagSeconds }),
			gauge("rows", "Rows of the generation that serves.", func(s Status) float64 { return float64(s.Rows) }),
			gauge("file_bytes", "Size of its file.", func(s Status) float64 { return float64(s.FileBytes) }),
			gauge("halted", "1 while it stands still until an operator acts.", func(s Status) float64 { return yes(s.Halted != nil) }),
			gauge("skips", "Records that operators had it leave out.", func(s Status) float64 { return float64(len(s.Skips)) }),
			gauge("quarantined", "Damaged files that were put aside.", func(s Status) float64 { return float64(len(s.Quarantined)) }),
			gauge("build_done_ratio", "How much of the log the generation has that is built beside; 1 when none is.", func(s Status) float64 {
				if s.Build == nil || s.Build.Total == 0 {
					return 1
				}
				return float64(s.Build.Done) / float64(s.Build.Total)
			}),
		},
	}
}

// Describe implements prometheus.Collector.
func (m *engineMetrics) Describe(out chan<- *prometheus.Desc) {
	m.applied.Describe(out)
	m.took.Describe(out)
	for _, g := range m.gauges {
		out <- g.desc
	}
}

// Collect implements prometheus.Collector.
func (m *engineMetrics) Collect(out chan<- prometheus.Metric) {
	m.applied.Collect(out)
	m.took.Collect(out)
	for _, v := range m.engine.Views() {
		s := v.Status()
		for _, g := range m.gauges {
			out <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, g.value(s), s.Name)
		}
	}
}
