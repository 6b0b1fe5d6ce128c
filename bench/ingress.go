package main

import (
	"bufio"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/ingress"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// contestants of the comparison of ingresses. The first is the baseline.
var contestants = []string{"bare-ingress", "penstock", "lone-ingress"}

// ingress compares how many deliveries are verified and durable per second.
func (b *bench) ingress(ctx context.Context) error {
	for _, k := range brokers() {
		if err := b.compareIngress(ctx, k); err != nil {
			return fmt.Errorf("ingress, %s: %w", k.name, err)
		}
	}
	return nil
}

func (b *bench) compareIngress(ctx context.Context, k broker) (err error) {
	rounds, window, size := or(b.rounds, 5), or(b.window, 4*time.Second), or(b.body, 2048)
	defer func() { err = errors.Join(err, k.drop(b.id)) }()
	all := map[string]*pressed{}
	for _, name := range contestants {
		p := &pressed{size: size, connections: b.connections, run: b.id + "-" + name}
		if name == "penstock" {
			p.process, err = b.startNode(ctx, k)
		} else {
			p.process, err = b.startRole(ctx, name, k)
		}
		if err != nil {
			return err
		}
		defer p.process.stop()
		if _, err := p.round(ctx, min(window, 2*time.Second)); err != nil {
			return fmt.Errorf("warm up %s: %w", name, err)
		}
		all[name] = p
	}
	fmt.Fprintf(b.out, "\ningress: %d-byte signed deliveries, %d connections, %d rounds of %s each in turns; %s\n",
		size, b.connections, rounds, window, k.name)
	t := newTable(b.out, "round", "", "per second", "× bare", "p50", "p99", "CPU each", "with the rest", "× bare",
		"handled by then", "refused")
	rates, costs := map[string][]float64{}, map[string][]float64{}
	for round := range rounds {
		var bare result
		for _, name := range contestants {
			r, err := all[name].round(ctx, window)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			if name == contestants[0] {
				bare = r
			}
			rate, cost := r.rate()/bare.rate(), r.whole/bare.whole
			rates[name], costs[name] = append(rates[name], rate), append(costs[name], cost)
			t.row(strconv.Itoa(round+1), name, fmt.Sprintf("%.0f", r.rate()), times(rate), ms(percentile(r.latencies, .5)),
				ms(percentile(r.latencies, .99)), micros(r.cost), micros(r.whole), times(cost), r.handled, strconv.Itoa(r.refused))
		}
	}
	t.end()
	for _, name := range contestants[1:] {
		fmt.Fprintf(b.out, "%s / bare-ingress: %s deliveries per second (%s), %s CPU for each with the rest (%s); medians of %d rounds\n", name,
			times(median(rates[name])), extent(rates[name]), times(median(costs[name])), extent(costs[name]), rounds)
	}
	return nil
}

// pressed is one contestant under load.
type pressed struct {
	process     *process
	size        int
	connections int
	run         string // makes the ids of its deliveries
	sent        int    // in earlier rounds
	accepted    int
}

// result is one round of one contestant.
type result struct {
	tally
	cost    float64 // CPU seconds for each delivery, until the last answer
	whole   float64 // and until everything is done that it set off
	handled string  // share of all accepted deliveries that the writers had handled at the last answer
}

// round sends for d and waits until the contestant has done everything, so that the next one has the machine alone.
func (p *pressed) round(ctx context.Context, d time.Duration) (r result, err error) {
	before, err := p.process.cpu()
	if err != nil {
		return r, err
	}
	base := p.sent
	r.tally, err = press(ctx, p.process.addr, p.connections, d, func(dst []byte, n int) []byte {
		return delivery(dst, p.process.addr, p.run, base+n, p.size, time.Now())
	})
	if err != nil {
		return r, fmt.Errorf("%w\n%s", err, p.process.journal)
	}
	if r.accepted() == 0 {
		return r, fmt.Errorf("all %d deliveries were refused: %s", r.refused, r.refusal)
	}
	answered, err := p.process.cpu()
	if err != nil {
		return r, err
	}
	p.sent += r.accepted() + r.refused
	p.accepted += r.accepted()
	if p.process.name == "penstock" {
		if r.handled, err = p.settle(ctx); err != nil {
			return r, err
		}
	}
	if err := p.process.quiet(ctx); err != nil {
		return r, err
	}
	done, err := p.process.cpu()
	r.cost = (answered - before).Seconds() / float64(r.accepted())
	r.whole = (done - before).Seconds() / float64(r.accepted())
	return r, err
}

// settle waits until the node's writers have handled everything, and says how much of it they had at first.
func (p *pressed) settle(ctx context.Context) (handled string, err error) {
	for until := time.Now().Add(2 * time.Minute); time.Now().Before(until); {
		n, err := outcomes(ctx, p.process.addr)
		if err != nil {
			return "", err
		}
		if handled == "" {
			handled = fmt.Sprintf("%.0f %%", 100*float64(n)/float64(p.accepted))
		}
		if n >= p.accepted {
			return handled, nil
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return "", err
		}
	}
	return "", errors.New("the writers have not handled everything within two minutes")
}

// outcomes reads how many deliveries a node's writers have handled since its start.
func outcomes(ctx context.Context, addr string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	total := 0.0
	lines := bufio.NewScanner(io.LimitReader(resp.Body, 4<<20))
	for lines.Scan() {
		if series, value, _ := strings.Cut(lines.Text(), " "); strings.HasPrefix(series, `penstock_outcomes_total{kind="delivery"`) {
			v, err := strconv.ParseFloat(value, 64)
			if err != nil {
				return 0, fmt.Errorf("metric %s: %w", series, err)
			}
			total += v
		}
	}
	return int(total), lines.Err()
}

// bareIngress is the least that a verified and durable ingress can do: read, compare a MAC, write, answer.
func bareIngress(ctx context.Context, r role) error {
	addrs, closer, err := r.connect()
	if err != nil {
		return err
	}
	defer closer()
	client, err := kgo.NewClient(kgo.SeedBrokers(addrs...), kgo.DefaultProduceTopic(r.topic), kgo.ProducerLinger(0))
	if err != nil {
		return err
	}
	defer client.Close()
	configs := map[string]*string{}
	if r.replication >= 3 {
		configs["min.insync.replicas"] = new("2")
	}
	// As many partitions as a node's inbox has by default.
	_, err = kadm.NewClient(client).CreateTopic(ctx, 8, int16(r.replication), configs, r.topic)
	if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /hooks/{source}", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write(body)
		got, _ := hex.DecodeString(strings.TrimPrefix(r.Header.Get("X-Hub-Signature-256"), "sha256=")) // or it isn't equal
		if !hmac.Equal(got, mac.Sum(nil)) {
			http.Error(w, "wrong signature", http.StatusUnauthorized)
			return
		}
		record := &kgo.Record{Key: []byte(r.Header.Get("X-GitHub-Delivery")), Value: body}
		if err := client.ProduceSync(r.Context(), record).FirstErr(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(http.StatusAccepted)
	})
	return serve(ctx, mux, addrs)
}

// loneIngress is a node's ingress over a node's log, without the writers and projections that share the cores with it
// in a node.
func loneIngress(ctx context.Context, r role) error {
	addrs, closer, err := r.connect()
	if err != nil {
		return err
	}
	defer closer()
	log, err := eventstore.Open(ctx, eventstore.Config{Brokers: addrs, Prefix: r.topic, Replication: int16(r.replication), Logger: logger()})
	if err != nil {
		return err
	}
	defer log.Close()
	hooks, err := ingress.New(ingress.Config{
		Sources: []ingress.Source{{Name: source, Provider: "github", Secrets: ingress.Keys(ingress.Secret(secret))}},
		Append: func(ctx context.Context, e eventstore.Entry) (ingress.Durability, error) {
			return ingress.Logged, log.Append(ctx, e)
		}, Logger: logger(),
	})
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/hooks/{source}", hooks)
	return serve(ctx, mux, addrs)
}
