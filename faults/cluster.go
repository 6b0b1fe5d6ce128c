//go:build linux

package faults

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Brokers is a Kafka cluster that deploy/kafka/kafka has started.
type Brokers struct {
	Addresses []string
	// Dir is the cluster's folder, for breaking it; empty if it isn't ours to break.
	Dir string
	// Root of the repository.
	Root string
}

// tool runs deploy/kafka/kafka. A started broker outlives it, so its output goes to a file and not through a pipe.
func (b *Brokers) tool(args ...string) (string, error) {
	out, err := os.CreateTemp("", "penstock-faults-")
	if err != nil {
		return "", err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	cmd := exec.Command(filepath.Join(b.Root, "deploy/kafka/kafka"), args...)
	cmd.Stdout, cmd.Stderr = out, out
	err = cmd.Run()
	said, _ := os.ReadFile(out.Name()) // for the message, or the answer
	if err != nil {
		return "", fmt.Errorf("kafka %s: %w: %s", strings.Join(args, " "), err, said)
	}
	return strings.TrimSpace(string(said)), nil
}

// Kill ends broker n, counted from 1, as a power cut would.
func (b *Brokers) Kill(n int) error {
	_, err := b.tool("kill", strconv.Itoa(n), "--dir", b.Dir)
	return err
}

// Start starts it again and waits until it answers.
func (b *Brokers) Start(n int) error {
	_, err := b.tool("start", strconv.Itoa(n), "--dir", b.Dir)
	return err
}

// Signal stops broker n in its tracks (SIGSTOP) or wakes it (SIGCONT).
func (b *Brokers) Signal(n int, s syscall.Signal) error {
	text, err := os.ReadFile(filepath.Join(b.Dir, strconv.Itoa(n), "pid"))
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return err
	}
	return syscall.Kill(pid, s)
}

// admin opens a client for questions, for f alone.
func (b *Brokers) admin(f func(context.Context, *kadm.Client) error) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(b.Addresses...))
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return f(ctx, kadm.NewClient(client))
}

// Coordinator returns which broker, counted from 1, coordinates the ownership group of a prefix, or with a partition
// that is not negative the transactions of that partition's writer.
func (b *Brokers) Coordinator(prefix string, partition int) (n int, err error) {
	err = b.admin(func(ctx context.Context, adm *kadm.Client) error {
		group, id := prefix+".writers", fmt.Sprintf("%s.writer.%d", prefix, partition)
		var found kadm.FindCoordinatorResponses
		if partition < 0 {
			found, id = adm.FindGroupCoordinators(ctx, group), group
		} else {
			found = adm.FindTxnCoordinators(ctx, id)
		}
		r := found[id]
		n = int(r.NodeID)
		return r.Err
	})
	return n, err
}

// Drop removes the topics and the group of a run.
func (b *Brokers) Drop(prefix string) error {
	return b.admin(func(ctx context.Context, adm *kadm.Client) error {
		var topics []string
		for _, name := range []string{"inbox", "events", "outcomes", "parked"} {
			topics = append(topics, prefix+"."+name)
		}
		adm.DeleteGroups(ctx, prefix+".writers") // one without a member expires by itself
		_, err := adm.DeleteTopics(ctx, topics...)
		return err
	})
}

// Read has the Kafka client of another language read a topic to its end, read_committed.
func (b *Brokers) Read(python, topic string) ([]Record, error) {
	cmd := exec.Command(python, filepath.Join(b.Root, "deploy/kafka/reader.py"), "--timeout", "90", strings.Join(b.Addresses, ","), topic)
	var said strings.Builder
	cmd.Stderr = &said
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	records, err := ReadRecords(pipe)
	if err != nil {
		io.Copy(io.Discard, pipe) // or it would wait for us for ever
	}
	if e := cmd.Wait(); e != nil {
		return nil, fmt.Errorf("read %s: %w: %s", topic, e, said.String())
	}
	return records, err
}

// Python returns the interpreter that runs reader.py.
func (b *Brokers) Python() (string, error) {
	out, err := exec.Command(filepath.Join(b.Root, "deploy/kafka/kafka"), "python").Output()
	return strings.TrimSpace(string(out)), err
}

// Node is penstock serve as a child process, with a data folder and an address that it keeps when it is started anew.
type Node struct {
	Index  int
	Client *http.Client // reaches it, in its namespace too

	address   string
	config    string
	program   string
	env       []string
	log       string
	namespace *Namespace // nil: the machine's network

	mu     sync.Mutex
	cmd    *exec.Cmd
	exited chan struct{} // closed when cmd has ended
	wanted bool          // it should be running
	deaths []string      // ends of the log when it ended although it should run
}

// NodeConfig says how a node runs.
type NodeConfig struct {
	Program   string // path of the penstock binary
	Dir       string // of this node: configuration, data and log
	Prefix    string
	Brokers   []string
	Env       []string
	Namespace *Namespace
}

const (
	secret    = "a secret of the fault tests"
	whsec     = "whsec_YSBzZWNyZXQgb2YgdGhlIGZhdWx0IHRlc3Rz" // the form that Standard Webhooks wants
	partition = 4                                            // of each topic
)

// NewNode writes the configuration. Start starts the node.
func NewNode(index int, c NodeConfig) (*Node, error) {
	n := &Node{
		Index: index, program: c.Program, namespace: c.Namespace, log: filepath.Join(c.Dir, "log"),
		config: filepath.Join(c.Dir, "penstock.yaml"), address: "127.0.0.1:8080",
	}
	dial := (&net.Dialer{Timeout: time.Second}).DialContext
	if c.Namespace != nil {
		dial = func(_ context.Context, _, address string) (net.Conn, error) { return c.Namespace.Dial(address) }
	} else {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		n.address = l.Addr().String()
		l.Close()
	}
	// A stopped node takes connections and says nothing.
	n.Client = &http.Client{Timeout: 4 * time.Second, Transport: &http.Transport{DialContext: dial, MaxIdleConnsPerHost: 64}}
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "PENSTOCK_") {
			n.env = append(n.env, v)
		}
	}
	n.env = append(append(n.env, "FAULTS_SECRET="+secret, "FAULTS_WHSEC="+whsec), c.Env...)
	replication := 1
	if len(c.Brokers) >= 3 {
		replication = 3
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, err
	}
	return n, os.WriteFile(n.config, fmt.Appendf(nil, `
listen: %s
data: %s
kafka:
  brokers: ["%s"]
  prefix: %s
  partitions: %d
  replication: %d
sources:
  stripe: {provider: stripe, secrets: ["env:FAULTS_SECRET"]}
  github: {provider: github, secrets: ["env:FAULTS_SECRET"]}
  standard: {provider: standard, secrets: ["env:FAULTS_WHSEC"]}
`, n.address, filepath.Join(c.Dir, "data"), strings.Join(c.Brokers, `", "`), c.Prefix, partition, replication), 0o600)
}

// URL is the node's base URL.
func (n *Node) URL() string { return "http://" + n.address }

// Start starts the process and returns at once. One that ends by itself is started again after a second, as a
// supervisor would, and noted.
func (n *Node) Start() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.wanted = true
	return n.start()
}

func (n *Node) start() error {
	log, err := os.OpenFile(n.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(n.program, "serve", "-c", n.config)
	cmd.Env, cmd.Stdout, cmd.Stderr = n.env, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if n.namespace != nil {
		err = n.namespace.Do(cmd.Start)
	} else {
		err = cmd.Start()
	}
	if err != nil {
		return err
	}
	exited := make(chan struct{})
	n.cmd, n.exited = cmd, exited
	go func() {
		cmd.Wait() // its log says the rest
		close(exited)
		n.revive(cmd)
	}()
	return nil
}

func (n *Node) revive(ended *exec.Cmd) {
	n.mu.Lock()
	unexpected := n.wanted && n.cmd == ended
	if unexpected {
		n.deaths = append(n.deaths, n.Tail(1500))
	}
	n.mu.Unlock()
	if !unexpected {
		return
	}
	time.Sleep(time.Second)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.wanted && n.cmd == ended {
		if err := n.start(); err != nil {
			n.deaths = append(n.deaths, err.Error())
		}
	}
}

// Deaths returns, for each time that the process ended by itself, the end of its log.
func (n *Node) Deaths() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.deaths)
}

// Signal signals the process; one that has ended already is fine.
func (n *Node) Signal(s syscall.Signal) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.signal(s)
}

func (n *Node) signal(s syscall.Signal) error {
	if n.cmd == nil {
		return nil
	}
	if err := n.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal node %d: %w", n.Index, err)
	}
	return nil
}

// end signals the process and returns what is closed when it has ended.
func (n *Node) end(s syscall.Signal) (<-chan struct{}, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.wanted = false
	return n.exited, n.signal(s)
}

// Kill ends the process at once.
func (n *Node) Kill() error {
	exited, err := n.end(syscall.SIGKILL)
	if err == nil && exited != nil {
		<-exited
	}
	return err
}

// Stop asks the process to end, and ends it after 20 seconds, which is an error.
func (n *Node) Stop() error {
	exited, err := n.end(syscall.SIGTERM)
	if err != nil || exited == nil {
		return err
	}
	select {
	case <-exited:
		return nil
	case <-time.After(20 * time.Second):
		return errors.Join(fmt.Errorf("node %d doesn't stop within 20 s of SIGTERM", n.Index), n.Kill())
	}
}

// Ready asks /readyz.
func (n *Node) Ready() bool {
	r, err := n.Client.Get(n.URL() + "/readyz")
	if err != nil {
		return false
	}
	defer r.Body.Close()
	io.Copy(io.Discard, r.Body)
	return r.StatusCode == http.StatusOK
}

// Tail is the end of the node's log.
func (n *Node) Tail(bytes int) string {
	b, err := os.ReadFile(n.log)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-bytes):])
}
