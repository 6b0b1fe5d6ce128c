package ingress

import (
	"slices"
	"strings"
	"time"
)

// SourceStatus is how a source is configured, without its secrets, and how it is doing.
type SourceStatus struct {
	Name         string   `json:"name"`
	Provider     string   `json:"provider" example:"github"`
	URL          string   `json:"url" doc:"Path that takes its webhooks" example:"/hooks/github"`
	Docs         string   `json:"docs" doc:"The provider's page on its signatures"`
	Verification string   `json:"verification" doc:"What a delivery is verified by, and what its signature covers. none if nothing is" example:"github; body"`
	Secrets      int      `json:"secrets" doc:"How many secrets count now"`
	Stream       string   `json:"stream,omitempty" doc:"Expression for the key of a delivery's stream, if it is not the provider's default"`
	ContentTypes []string `json:"content_types" nullable:"false" doc:"Media types that are taken"`
	MaxBody      int64    `json:"max_body" doc:"Bytes that a body may have"`

	When   []RuleStatus  `json:"when" nullable:"false" doc:"Rules that a delivery must fulfil to be kept"`
	Allow  *AllowStatus  `json:"allow,omitempty" doc:"From where deliveries are taken; absent for everywhere"`
	Limits *LimitsStatus `json:"limits,omitempty" doc:"Requests a second that are answered; absent without a limit"`

	Refused     uint64     `json:"refused" doc:"Requests that were refused since the node started"`
	Dropped     uint64     `json:"dropped" doc:"Deliveries that a rule dropped since the node started"`
	LastRefused *time.Time `json:"last_refused,omitempty"`
}

// RuleStatus is a rule, and what it has done since the node started.
type RuleStatus struct {
	Name       string `json:"name" example:"main-branch"`
	Expression string `json:"expression" example:"body.ref == 'refs/heads/main'"`
	Dropped    uint64 `json:"dropped" doc:"Deliveries that it dropped"`
	Failed     uint64 `json:"failed" doc:"Deliveries that were refused because it could not be evaluated"`
}

// AllowStatus is from where deliveries are taken.
type AllowStatus struct {
	Ranges  int        `json:"ranges" doc:"How many address ranges there are, those of the file included"`
	File    string     `json:"file,omitempty" doc:"allow_file"`
	Loaded  *time.Time `json:"loaded,omitempty" doc:"When the file in use was read"`
	Problem string     `json:"problem,omitempty" doc:"Why the file, as it is now, is not in use. The last good one is"`
}

// LimitsStatus are the limits, 0 for none.
type LimitsStatus struct {
	Rate        float64 `json:"rate"`
	Burst       int     `json:"burst"`
	ClientRate  float64 `json:"client_rate" doc:"For each sender's address, an IPv6 address by its /64"`
	ClientBurst int     `json:"client_burst"`
}

// Sources returns the status of all sources, by name.
func (h *Handler) Sources() []SourceStatus {
	all := []SourceStatus{}
	for _, rt := range *h.routes.Load() {
		all = append(all, h.status(rt))
	}
	slices.SortFunc(all, func(a, b SourceStatus) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// Source returns the status of one source.
func (h *Handler) Source(name string) (SourceStatus, bool) {
	rt := (*h.routes.Load())[name]
	if rt == nil {
		return SourceStatus{}, false
	}
	return h.status(rt), true
}

// Refusals returns the requests of a source that were refused or dropped, newest first, as far as they are kept, and
// how many there were of each kind since the node started, the latest kind first. ok is false without such a source.
func (h *Handler) Refusals(name string) (last []Refusal, counts []RefusalCount, ok bool) {
	rt := (*h.routes.Load())[name]
	if rt == nil {
		return nil, nil, false
	}
	last, counts = rt.refused.list()
	return last, counts, true
}

func (h *Handler) status(rt *route) SourceStatus {
	s := SourceStatus{
		Name: rt.source.Name, Provider: rt.provider.Name, URL: "/hooks/" + rt.source.Name, Docs: rt.provider.Docs,
		Verification: rt.verification(), Secrets: len(h.keys(rt)), Stream: rt.source.Stream, ContentTypes: slices.Clone(rt.content),
		MaxBody: rt.maxBody, When: []RuleStatus{},
	}
	_, counts := rt.refused.list()
	dropped, failed := map[string]uint64{}, map[string]uint64{}
	for _, c := range counts {
		switch {
		case c.Reason == reasonDropped:
			s.Dropped += c.Count
			dropped[c.Rule] += c.Count
			continue
		case c.Rule != "":
			failed[c.Rule] += c.Count
		}
		s.Refused += c.Count
		if s.LastRefused == nil || c.Last.After(*s.LastRefused) {
			s.LastRefused = &c.Last
		}
	}
	for _, r := range rt.source.When {
		s.When = append(s.When, RuleStatus{r.Name, r.Expression, dropped[r.Name], failed[r.Name]})
	}
	if rt.allow != nil {
		s.Allow = rt.allow.status()
	}
	if l := rt.source.Limits; l != (Limits{}) {
		s.Limits = &LimitsStatus{Rate: l.Rate, Burst: burst(l.Rate, l.Burst), ClientRate: l.ClientRate, ClientBurst: burst(l.ClientRate, l.ClientBurst)}
	}
	return s
}

// verification is recorded with each delivery.
func (rt *route) verification() string {
	if rt.source.Unverified {
		return rt.provider.Name + "; none"
	}
	return rt.provider.Verification
}

func (a *allowList) status() *AllowStatus {
	now := a.state.Load()
	s := &AllowStatus{Ranges: len(now.set), File: a.path}
	if !now.loaded.IsZero() {
		s.Loaded = &now.loaded
	}
	if now.problem != nil {
		s.Problem = now.problem.Error()
	}
	return s
}
