package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/penstock-io/penstock/eventstore"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// broker is a kind of Kafka that both contestants are measured against.
type broker struct {
	name        string
	addrs       []string // none: each process runs the embedded broker by itself, with fsync
	replication int
}

// brokers are the embedded one and, where PENSTOCK_TEST_BROKERS names it, a real cluster.
func brokers() []broker {
	kinds := []broker{{name: "embedded broker, synced at every write", replication: 1}}
	if env := os.Getenv("PENSTOCK_TEST_BROKERS"); env != "" {
		addrs := strings.Split(env, ",")
		b := broker{name: fmt.Sprintf("Kafka cluster, %d broker(s)", len(addrs)), addrs: addrs, replication: 1}
		if len(addrs) >= 3 {
			b.replication = 3
		}
		kinds = append(kinds, b)
	}
	return kinds
}

// drop removes what a run made on a real cluster: topics and groups whose name begins with prefix.
func (k broker) drop(prefix string) error {
	if len(k.addrs) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(k.addrs...))
	if err != nil {
		return err
	}
	defer client.Close()
	adm := kadm.NewClient(client)
	topics, err := adm.ListTopics(ctx)
	if err != nil {
		return fmt.Errorf("list topics to remove: %w", err)
	}
	ours := func(name string) bool { return strings.HasPrefix(name, prefix) }
	if names := slices.DeleteFunc(topics.Names(), func(n string) bool { return !ours(n) }); len(names) > 0 {
		if _, err := adm.DeleteTopics(ctx, names...); err != nil {
			return fmt.Errorf("remove topics: %w", err)
		}
	}
	groups, err := adm.ListGroups(ctx)
	if err != nil {
		return fmt.Errorf("list groups to remove: %w", err)
	}
	if names := slices.DeleteFunc(groups.Groups(), func(n string) bool { return !ours(n) }); len(names) > 0 {
		if _, err := adm.DeleteGroups(ctx, names...); err != nil {
			return fmt.Errorf("remove groups: %w", err)
		}
	}
	return nil
}

// process is a contestant: a child that serves HTTP on loopback.
type process struct {
	name  string
	addr  string // host:port
	kafka []string
	topic string // where the events that it makes of deliveries stand

	cmd     *exec.Cmd
	journal *journal
	done    chan struct{} // closed when it has ended
	ended   error         // how, once done is closed
}

// startNode starts a node with one source and everything else by default.
func (b *bench) startNode(ctx context.Context, k broker) (*process, error) {
	dir, err := os.MkdirTemp(b.dir, "node-")
	if err != nil {
		return nil, err
	}
	return b.startNodeOn(ctx, k, dir, fmt.Sprintf("%s-%s", b.id, filepath.Base(dir)))
}

// startNodeOn is startNode in a folder and with topics that are there already.
func (b *bench) startNodeOn(ctx context.Context, k broker, dir, prefix string) (*process, error) {
	kafka := "embedded: 127.0.0.1:0"
	if len(k.addrs) > 0 {
		kafka = fmt.Sprintf("brokers: [%s]", strings.Join(k.addrs, ", "))
	}
	file := filepath.Join(dir, "penstock.yaml")
	text := fmt.Sprintf(`listen: 127.0.0.1:0
data: %s
kafka:
  %s
  prefix: %s
  replication: %d
sources:
  %s:
    provider: github
    secrets: [env:BENCH_SECRET]
feeds:
  max_connections: 20000
`, filepath.Join(dir, "data"), kafka, prefix, k.replication, source)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil, err
	}
	p, err := start(ctx, "penstock", b.node, "serve", "-c", file)
	if err != nil {
		return nil, err
	}
	p.topic = prefix + ".events"
	return p.serving(ctx, k, time.Minute)
}

// startRole starts this program again, in a role.
func (b *bench) startRole(ctx context.Context, name string, k broker) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(b.dir, name+"-")
	if err != nil {
		return nil, err
	}
	topic := fmt.Sprintf("%s-%s", b.id, filepath.Base(dir))
	p, err := start(ctx, name, self, name, "-dir", dir, "-brokers", strings.Join(k.addrs, ","), "-topic", topic,
		"-replication", strconv.Itoa(k.replication))
	if err != nil {
		return nil, err
	}
	p.topic = topic
	return p.serving(ctx, k, time.Minute)
}

// start starts a child. Whatever happens to this process, the kernel ends the child with it.
func start(ctx context.Context, name, path string, args ...string) (*process, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p := &process{name: name, cmd: exec.Command(path, args...), journal: &journal{ready: make(chan struct{})}, done: make(chan struct{})}
	p.cmd.Stderr = p.journal
	// A node takes its settings from these too.
	p.cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "PENSTOCK_") })
	p.cmd.Env = append(p.cmd.Env, "BENCH_SECRET="+secret)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		p.ended = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// serving waits until the child answers requests, and stops it when it doesn't.
func (p *process) serving(ctx context.Context, k broker, patience time.Duration) (*process, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := p.awaitReady(ctx)
	if err != nil {
		p.stop()
		return nil, fmt.Errorf("%s does not start: %w\n%s", p.name, err, p.journal)
	}
	if len(k.addrs) > 0 {
		p.kafka = k.addrs
	}
	return p, nil
}

func (p *process) awaitReady(ctx context.Context) error {
	select {
	case <-p.journal.ready:
	case <-p.done:
		return fmt.Errorf("it ended: %v", p.ended)
	case <-ctx.Done():
		return ctx.Err()
	}
	p.addr, p.kafka = p.journal.url, []string{p.journal.kafka}
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.addr+"/readyz", nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// stop ends the child: with a signal, and by force when it takes more than ten seconds.
func (p *process) stop() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(10 * time.Second):
		p.cmd.Process.Kill()
		<-p.done
	}
}

// cpu is the time that the child has computed so far, in user and kernel mode, in steps of 10 ms.
func (p *process) cpu() (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, p.gone(err)
	}
	// The second field is the program's name in parentheses, which may hold anything (proc(5)).
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat: %q", p.cmd.Process.Pid, b)
	}
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	kernel, err2 := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+kernel) * (time.Second / 100), errors.Join(err1, err2)
}

// memory is the child's resident anonymous memory in bytes. Pages of mapped files, which a node's tables have, belong
// to the page cache and don't count.
func (p *process) memory() (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, p.gone(err)
	}
	for line := range strings.Lines(string(b)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "RssAnon:" {
			kib, err := strconv.ParseInt(fields[1], 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("/proc/%d/status has no RssAnon", p.cmd.Process.Pid)
}

func (p *process) gone(err error) error {
	return fmt.Errorf("%s has ended: %w\n%s", p.name, err, p.journal)
}

// quiet waits until the child computes next to nothing, for half a minute at most: what one measurement left behind
// must not count in the next.
func (p *process) quiet(ctx context.Context) error {
	const step = 250 * time.Millisecond
	calm := 0
	before, err := p.cpu()
	for until := time.Now().Add(30 * time.Second); err == nil && calm < 3 && time.Now().Before(until); {
		if err = sleep(ctx, step); err != nil {
			break
		}
		var now time.Duration
		if now, err = p.cpu(); now-before <= step/10 {
			calm++
		} else {
			calm = 0
		}
		before = now
	}
	return err
}

// journal keeps the end of what a child says, and learns from it where the child listens.
type journal struct {
	mu         sync.Mutex
	lines      []string
	rest       []byte
	ready      chan struct{} // closed once url and kafka are known
	url, kafka string
}

// announcement is the line that a node logs when it serves, and that our own children log too.
var announcement = regexp.MustCompile(`url=http://(\S+) kafka=\[?([^\] ]*)`)

const (
	keptLines = 30
	keptBytes = 4 << 10 // of a line
)

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.rest = append(j.rest, b...)
	for {
		line, rest, found := bytes.Cut(j.rest, []byte("\n"))
		if !found && len(line) < keptBytes {
			return len(b), nil
		}
		if m := announcement.FindSubmatch(line); m != nil && j.url == "" {
			j.url, j.kafka = string(m[1]), string(m[2])
			close(j.ready)
		}
		j.lines = append(j.lines, string(line[:min(len(line), keptBytes)]))
		j.lines = j.lines[max(0, len(j.lines)-keptLines):]
		j.rest = bytes.Clone(rest)
	}
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Join(j.lines, "\n")
}

// get reads the JSON that the child answers to a question.
func (p *process) get(ctx context.Context, path string, v any) error {
	body, err := p.ask(ctx, http.MethodGet, path, http.StatusOK)
	if err != nil {
		return err
	}
	return json.Unmarshal(body, v)
}

// post has the child begin something.
func (p *process) post(ctx context.Context, path string) error {
	_, err := p.ask(ctx, http.MethodPost, path, http.StatusAccepted)
	return err
}

func (p *process) ask(ctx context.Context, method, path string, want int) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, method, "http://"+p.addr+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil && resp.StatusCode != want {
		err = fmt.Errorf("%s %s: %s %s", method, path, resp.Status, body)
	}
	return body, err
}

// role is what a child of our own needs to know.
type role struct {
	dir         string
	brokers     []string
	topic       string
	replication int
	events      int    // in the topic, for those who need to know; for readers the rows
	addr        string // readers: of the node
}

// play runs a role until ctx ends.
func play(ctx context.Context, run func(context.Context, role) error, args []string) error {
	var r role
	var list string
	fs := flag.NewFlagSet("role", flag.ContinueOnError)
	fs.StringVar(&r.dir, "dir", "", "")
	fs.StringVar(&list, "brokers", "", "")
	fs.StringVar(&r.topic, "topic", "", "")
	fs.IntVar(&r.replication, "replication", 1, "")
	fs.IntVar(&r.events, "events", 0, "")
	fs.StringVar(&r.addr, "addr", "", "")
	if err := fs.Parse(args); err != nil {
		return flag.ErrHelp
	}
	if list != "" {
		r.brokers = strings.Split(list, ",")
	}
	return run(ctx, r)
}

// connect returns the brokers to use: the given ones, or the embedded one of this process, exactly as a node runs it.
func (r role) connect() (addrs []string, closer func(), err error) {
	if len(r.brokers) > 0 {
		return r.brokers, func() {}, nil
	}
	e, err := eventstore.StartEmbedded("127.0.0.1:0", filepath.Join(r.dir, "kafka"), logger())
	if err != nil {
		return nil, nil, err
	}
	return []string{e.Addr}, e.Close, nil
}

func logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// serve answers requests on a free port until ctx ends, under the timeouts of a node.
func serve(ctx context.Context, mux *http.ServeMux, kafka []string) error {
	mux.HandleFunc("GET /readyz", func(http.ResponseWriter, *http.Request) {})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	fmt.Fprintf(os.Stderr, "serves url=http://%s kafka=%v\n", l.Addr(), kafka)
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
