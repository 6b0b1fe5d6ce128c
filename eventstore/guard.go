package eventstore

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/penstock-io/penstock/domain"
	"github.com/twmb/franz-go/pkg/kadm"
)

// guardEvery is how often the topics are looked at while the log runs.
const guardEvery = 15 * time.Second

// Problems says what is wrong with the topics, as of the last look: the promises can't be kept until somebody acts.
func (l *Log) Problems() []Problem {
	if p := l.problems.Load(); p != nil {
		return *p
	}
	return nil
}

// intact is nil unless the topics are no longer those that this node was started on.
func (l *Log) intact() error {
	for _, p := range l.Problems() {
		if p.Fatal {
			return &domain.Error{Class: domain.Unavailable, Rule: "topics", Message: p.Text}
		}
	}
	return nil
}

// guard looks at the topics again and again until ctx ends, and says at once what has changed.
func (l *Log) guard(ctx context.Context) error {
	pinned := map[string]int64{}
	tick := time.NewTicker(guardEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			l.look(ctx, pinned)
		case <-l.lookNow:
			l.look(ctx, pinned)
		}
	}
}

// Look has the guard look at the topics now.
func (l *Log) Look() {
	select {
	case l.lookNow <- struct{}{}:
	default: // it is about to
	}
}

func (l *Log) look(ctx context.Context, pinned map[string]int64) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	found, err := l.inspect(ctx)
	if err == nil {
		var hanging []Problem
		hanging, err = l.hanging(ctx, pinned)
		found = append(found, hanging...)
	}
	if err != nil {
		l.cfg.Logger.Warn("the topics can't be looked at", "error", err)
		return // what was known stays true until the next look
	}
	for _, p := range found {
		if !slices.Contains(l.Problems(), p) {
			l.cfg.Logger.Error("trouble with the topics", "problem", p.Text)
		}
	}
	l.problems.Store(&found)
}

// hanging names the producers whose open transactions hold back the readers: a last stable offset that stays where it
// is, from one look to the next, below the end. Our own writers' transactions end within their timeout.
func (l *Log) hanging(ctx context.Context, pinned map[string]int64) (problems []Problem, err error) {
	topics := []string{l.Topics.Inbox, l.Topics.Events, l.Topics.Outcomes}
	stable, err := l.adm.ListCommittedOffsets(ctx, topics...)
	if err != nil {
		return nil, unavailable("list the stable offsets", err)
	}
	ends, err := l.adm.ListEndOffsets(ctx, topics...)
	if err != nil {
		return nil, unavailable("list the end offsets", err)
	}
	suspects := kadm.TopicsSet{}
	ends.Each(func(end kadm.ListedOffset) {
		key := fmt.Sprintf("%s/%d", end.Topic, end.Partition)
		s, ok := stable.Lookup(end.Topic, end.Partition)
		l.stableLag.WithLabelValues(end.Topic, strconv.Itoa(int(end.Partition))).Set(float64(max(0, end.Offset-s.Offset)))
		if !ok || s.Offset >= end.Offset {
			delete(pinned, key)
			return
		}
		if at, before := pinned[key]; before && at == s.Offset {
			suspects.Add(end.Topic, end.Partition)
		}
		pinned[key] = s.Offset
	})
	if len(suspects) == 0 {
		return nil, nil
	}
	producers, err := l.adm.DescribeProducers(ctx, suspects)
	if err != nil {
		return nil, unavailable("describe the producers", err)
	}
	producers.EachProducer(func(p kadm.DescribedProducer) {
		if p.CurrentTxnStartOffset >= 0 && time.Since(time.UnixMilli(p.LastTimestamp)) > transactionTimeout {
			problems = append(problems, Problem{Text: fmt.Sprintf("producer id %d (epoch %d) holds a transaction open in %s partition %d since offset %d: nobody can read beyond it until it is aborted (kafka-transactions.sh abort)",
				p.ProducerID, p.ProducerEpoch, p.Topic, p.Partition, p.CurrentTxnStartOffset)})
		}
	})
	slices.SortFunc(problems, func(a, b Problem) int { return strings.Compare(a.Text, b.Text) })
	return problems, nil
}
