package api

import (
	"context"
	"net/http"
	"sort"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/projections"
)

func (s *server) registerNode() {
	tags := []string{"Node"}
	add(s, huma.Operation{
		OperationID: "get-status", Method: http.MethodGet, Path: "/v1/status", Tags: tags,
		Summary:     "Get how this node is doing",
		Description: "It answers also when Kafka doesn't: `kafka.error` then says so.",
		Errors:      refused(),
	}, s.status)
	add(s, huma.Operation{
		OperationID: "get-health", Method: http.MethodGet, Path: "/healthz", Tags: tags,
		Summary:     "Ask whether the process runs",
		Description: "Always 200, also when Kafka is away: a restart would not help.",
		Errors:      refused(),
	}, s.healthz)
	add(s, huma.Operation{
		OperationID: "get-readiness", Method: http.MethodGet, Path: "/readyz", Tags: tags,
		Summary:     "Ask whether the node should get requests",
		Description: "If not, the problem's `reasons` say what is missing.",
		Errors:      refused(http.StatusServiceUnavailable),
	}, s.readyz)
}

// nodeStatus is what an operator asks first.
type nodeStatus struct {
	Version     string               `json:"version" doc:"of this build"`
	Started     time.Time            `json:"started"`
	Uptime      int64                `json:"uptime_seconds"`
	Position    string               `json:"position" doc:"How far into the events this node has seen"`
	Kafka       kafkaStatus          `json:"kafka"`
	Partitions  []partitionStatus    `json:"partitions" nullable:"false" doc:"Partitions whose writer is this node"`
	Projections []projections.Status `json:"projections" nullable:"false"`
	Feeds       int                  `json:"feeds" doc:"Open feeds"`
	Violations  violationStatus      `json:"violations" doc:"Events of other programs that broke their stream's order and were left out"`
	Spool       spoolStatus          `json:"spool" doc:"Deliveries that wait on this node's disk, because Kafka was away"`
}

type violationStatus struct {
	Count int                    `json:"count"`
	First []eventstore.Violation `json:"first" nullable:"false" doc:"The first hundred"`
}

type spoolStatus struct {
	Records  int      `json:"records" doc:"Deliveries that wait"`
	Bytes    int64    `json:"bytes" doc:"On disk"`
	MaxBytes int64    `json:"max_bytes" doc:"How many there may be; 0 if nothing is spooled"`
	Oldest   int64    `json:"oldest_seconds" doc:"Age of the oldest that waits"`
	Refused  int      `json:"refused" doc:"Set aside, because the log will never take them"`
	Problems []string `json:"problems" nullable:"false" doc:"What keeps it from working"`
}

type kafkaStatus struct {
	Cluster  string        `json:"cluster" doc:"Kafka's cluster id"`
	Brokers  []string      `json:"brokers" nullable:"false" doc:"As configured"`
	Embedded bool          `json:"embedded" doc:"The broker runs in this process"`
	Error    string        `json:"error,omitempty" doc:"Kafka can't be asked at the moment"`
	Topics   []topicStatus `json:"topics" nullable:"false"`
}

type topicStatus struct {
	Name  string  `json:"name"`
	Start []int64 `json:"start" nullable:"false" doc:"Oldest offset of each partition"`
	End   []int64 `json:"end" nullable:"false" doc:"Offset after the newest record of each partition that is decided"`
}

type partitionStatus struct {
	Partition int32 `json:"partition"`
	Serving   bool  `json:"serving" doc:"false while the writer still reads up to the end of the log"`
}

type statusAnswer struct{ Body nodeStatus }

// kafkaTime bounds the questions to Kafka: the status matters most when nobody answers them.
const kafkaTime = 2 * time.Second

func (s *server) status(ctx context.Context, _ *struct{}) (*statusAnswer, error) {
	now := s.Clock()
	st := nodeStatus{
		Version: s.Version, Started: s.started.UTC(), Uptime: int64(now.Sub(s.started) / time.Second),
		Position:    s.Log.TailEnd(s.Log.Topics.Events).String(),
		Kafka:       s.kafka(ctx),
		Partitions:  []partitionStatus{},
		Projections: s.projectionStatuses(),
	}
	if s.Owned != nil {
		for p, serving := range s.Owned() {
			st.Partitions = append(st.Partitions, partitionStatus{p, serving})
		}
		sort.Slice(st.Partitions, func(i, j int) bool { return st.Partitions[i].Partition < st.Partitions[j].Partition })
	}
	if s.Feeds != nil {
		st.Feeds = s.Feeds()
	}
	violations, count, err := s.History.Violations(100)
	if err != nil {
		return nil, err
	}
	st.Violations = violationStatus{count, append([]eventstore.Violation{}, violations...)}
	st.Spool.Problems = []string{}
	if s.Spool != nil {
		d := s.Spool()
		st.Spool = spoolStatus{d.Records, d.Bytes, d.MaxBytes, 0, d.Refused, append([]string{}, d.Problems...)}
		if !d.Oldest.IsZero() {
			st.Spool.Oldest = int64(max(0, now.Sub(d.Oldest)) / time.Second)
		}
	}
	return &statusAnswer{st}, nil
}

func (s *server) kafka(ctx context.Context) kafkaStatus {
	k := kafkaStatus{Cluster: s.Log.Cluster(), Brokers: append([]string{}, s.Brokers...), Embedded: s.Embedded, Topics: []topicStatus{}}
	ctx, cancel := context.WithTimeout(ctx, kafkaTime)
	defer cancel()
	t := s.Log.Topics
	for _, name := range []string{t.Inbox, t.Events, t.Outcomes, t.Parked} {
		start, err := s.Log.Start(ctx, name)
		var end eventstore.Position
		if err == nil {
			end, err = s.Log.End(ctx, name)
		}
		if err != nil {
			s.Logger.Warn("Kafka can't be asked for its offsets", "topic", name, "error", err)
			k.Error = "the offsets of " + name + " can't be listed"
			return k
		}
		k.Topics = append(k.Topics, topicStatus{name, start.Next, end.Next})
	}
	return k
}

type health struct {
	Status string `json:"status" enum:"ok"`
}

type healthAnswer struct{ Body health }

func (s *server) healthz(context.Context, *struct{}) (*healthAnswer, error) {
	return &healthAnswer{health{"ok"}}, nil
}

func (s *server) readyz(context.Context, *struct{}) (*healthAnswer, error) {
	if s.Ready != nil {
		if reasons := s.Ready(); len(reasons) > 0 {
			p := notReady.problem(reasons[0])
			p.Reasons = reasons
			return nil, p
		}
	}
	return &healthAnswer{health{"ok"}}, nil
}
