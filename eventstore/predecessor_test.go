package eventstore_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/penstock-io/penstock/eventstore"
	"github.com/penstock-io/penstock/eventstore/eventstoretest"
	"github.com/twmb/franz-go/pkg/kgo"
)

// TestANodeThatWasKilledTakesItsPartitionsBack: the member that died has a session of minutes, which a node that comes back
// in its folder doesn't wait for. Other members stay: they are no concern of that folder's.
func TestANodeThatWasKilledTakesItsPartitionsBack(t *testing.T) {
	cfg := eventstoretest.Config(t)
	cfg.MemberFile = filepath.Join(t.TempDir(), "member")
	l := eventstoretest.Open(t, cfg)
	group := cfg.Prefix + ".writers"
	alive, dead := join(t, l, cfg, group), join(t, l, cfg, group)
	aliveID, _ := alive.GroupMetadata()
	deadID := dead.kill()
	if err := os.WriteFile(cfg.MemberFile, []byte(deadID), 0o600); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	serving := 0
	eventstoretest.Run(t, "owner", func(ctx context.Context) error {
		return l.Own(ctx, func(ctx context.Context, _ int32) {
			mu.Lock()
			serving++
			mu.Unlock()
			<-ctx.Done()
		}, func(int32) int64 { return 0 })
	})
	eventstoretest.Until(t, "this node has partitions again", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return serving > 0
	})
	if id, _ := alive.GroupMetadata(); id != aliveID {
		t.Errorf("the other member was %s and is %s", aliveID, id)
	}
	kept, err := os.ReadFile(cfg.MemberFile)
	if err != nil || len(kept) == 0 || string(kept) == deadID || string(kept) == aliveID {
		t.Errorf("%q is kept, of %q and %q: %v", kept, deadID, aliveID, err)
	}
}

// groupMember is a member of the writers' group whose process can be killed.
type groupMember struct {
	*kgo.Client
	mu    sync.Mutex
	conns []net.Conn
	gone  bool
}

// join waits until the new member has partitions.
func join(t *testing.T, l *eventstore.Log, cfg eventstore.Config, group string) *groupMember {
	t.Helper()
	m := &groupMember{}
	assigned := make(chan bool, 1)
	cl, err := kgo.NewClient(kgo.SeedBrokers(cfg.Brokers...), kgo.Dialer(m.dial), kgo.ConsumerGroup(group), kgo.ConsumeTopics(l.Topics.Inbox),
		kgo.SessionTimeout(2*time.Minute), kgo.RebalanceTimeout(2*time.Minute), kgo.HeartbeatInterval(100*time.Millisecond), kgo.DisableAutoCommit(),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, p map[string][]int32) {
			if len(p) > 0 {
				select {
				case assigned <- true:
				default:
				}
			}
		}))
	if err != nil {
		t.Fatal(err)
	}
	m.Client = cl
	t.Cleanup(func() {
		m.kill() // whoever leaves would wait for the others
		cl.Close()
	})
	select {
	case <-assigned:
	case <-time.After(30 * time.Second):
		t.Fatal("it has no partitions")
	}
	return m
}

func (m *groupMember) dial(ctx context.Context, network, host string) (net.Conn, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.gone {
		return nil, errors.New("the process was killed")
	}
	c, err := (&net.Dialer{}).DialContext(ctx, network, host)
	if err == nil {
		m.conns = append(m.conns, c)
	}
	return c, err
}

func (m *groupMember) kill() (id string) {
	id, _ = m.GroupMetadata()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gone = true
	for _, c := range m.conns {
		c.Close()
	}
	return id
}
