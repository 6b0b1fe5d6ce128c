package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"
)

// forged floods a node with deliveries whose signature is wrong, as fast as they are refused. Nothing of them may be
// written to Kafka, and memory may not grow with their number. Good deliveries go on beside, at a steady rate.
func (b *bench) forged(ctx context.Context) error {
	for _, k := range brokers() {
		if err := b.flood(ctx, k); err != nil {
			return fmt.Errorf("forged, %s: %w", k.name, err)
		}
	}
	return nil
}

func (b *bench) flood(ctx context.Context, k broker) (err error) {
	rounds, window, size, rate := or(b.rounds, 3), or(b.window, 10*time.Second), or(b.body, 2048), or(b.rate, 100)
	defer func() { err = errors.Join(err, k.drop(b.id)) }()
	node, err := b.startNode(ctx, k)
	if err != nil {
		return err
	}
	defer node.stop()
	fmt.Fprintf(b.out, "\nforged: %d-byte deliveries with a wrong signature from %d connections, %s a round, and %d good ones a second beside; %s\n",
		size, b.connections, window, rate, k.name)
	t := newTable(b.out, "round", "", "forged per second", "CPU each", "good p50", "good p99", "resident", "Kafka records of the forged")
	good := 0
	steady := func(ctx context.Context) (tally, error) {
		base := good
		r, err := pace(ctx, node.addr, rate, window, func(dst []byte, n int) []byte {
			return delivery(dst, node.addr, b.id, base+n, size, time.Now())
		})
		good += r.accepted()
		if err == nil && r.refused > 0 {
			err = fmt.Errorf("%d good deliveries were refused: %s", r.refused, r.refusal)
		}
		return r, err
	}
	for round := range rounds {
		for _, flooded := range []bool{false, true} {
			if err := node.quiet(ctx); err != nil {
				return err
			}
			cpu, err := node.cpu()
			if err != nil {
				return err
			}
			before, err := node.inbox(ctx)
			if err != nil {
				return err
			}
			var honest, forgeries tally
			g, gctx := errgroup.WithContext(ctx)
			g.Go(func() (err error) {
				honest, err = steady(gctx)
				return err
			})
			if flooded {
				g.Go(func() (err error) {
					forgeries, err = press(gctx, node.addr, b.connections, window, func(dst []byte, n int) []byte {
						return forgery(delivery(dst, node.addr, b.id+"-forged", n, size, time.Now()))
					})
					return err
				})
			}
			if err := g.Wait(); err != nil {
				return fmt.Errorf("%w\n%s", err, node.journal)
			}
			if forgeries.accepted() > 0 || !strings.HasPrefix(forgeries.refusal, "401") && flooded {
				return fmt.Errorf("%d forgeries were accepted; a refusal is %q", forgeries.accepted(), forgeries.refusal)
			}
			spent, err := node.cpu()
			if err != nil {
				return err
			}
			after, err := node.inbox(ctx)
			if err != nil {
				return err
			}
			memory, err := node.memory()
			if err != nil {
				return err
			}
			written := after - before - int64(honest.accepted())
			name, each := "alone", "–"
			if flooded {
				name, each = "flooded", micros((spent-cpu).Seconds()/float64(max(1, forgeries.refused)))
			}
			t.row(fmt.Sprint(round+1), name, fmt.Sprintf("%.0f", float64(forgeries.refused)/window.Seconds()), each,
				ms(percentile(honest.latencies, .5)), ms(percentile(honest.latencies, .99)), fmt.Sprintf("%d MiB", memory>>20), fmt.Sprint(written))
			if written != 0 {
				t.end()
				return fmt.Errorf("%d records more than good deliveries stand in the inbox", written)
			}
		}
	}
	t.end()
	return nil
}

// forgery changes the signature of a whole request into another one of the right form.
func forgery(request []byte) []byte {
	i := bytes.Index(request, []byte("sha256=")) + len("sha256=")
	for j := range 64 {
		request[i+j] = "123456789abcdef0"[bytes.IndexByte([]byte("0123456789abcdef"), request[i+j])]
	}
	return request
}

// inbox is how many records stand in the inbox of a node. Transactions write to it too, for follow-up commands, but no
// policy makes any of these deliveries.
func (p *process) inbox(ctx context.Context) (int64, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(p.kafka...))
	if err != nil {
		return 0, err
	}
	defer client.Close()
	topic := strings.TrimSuffix(p.topic, ".events") + ".inbox"
	ends, err := kadm.NewClient(client).ListEndOffsets(ctx, topic)
	if err := errors.Join(err, ends.Error()); err != nil {
		return 0, fmt.Errorf("ends of %s: %w", topic, err)
	}
	total := int64(0)
	ends.Each(func(o kadm.ListedOffset) { total += o.Offset })
	return total, nil
}
