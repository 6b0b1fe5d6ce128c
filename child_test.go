package penstock_test

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// program is ./cmd/penstock, built once for all tests. TestMain removes it.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "penstock-test-")
	if err != nil {
		return "", err
	}
	programDir = dir
	path := filepath.Join(dir, "penstock")
	if out, err := exec.Command("go", "build", "-o", path, "./cmd/penstock").CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w: %s", err, out)
	}
	return path, nil
})

var programDir string

func TestMain(m *testing.M) {
	code := m.Run()
	if programDir != "" {
		os.RemoveAll(programDir)
	}
	os.Exit(code)
}

// child is the program as a process of its own.
type child struct {
	cmd            *exec.Cmd
	stdout, stderr output
	exited         chan struct{} // closed when code is known
	code           int           // -1 when killed
}

// launch starts the program with nothing of this process's PENSTOCK_ settings. It is killed at the end of the test if it
// still runs.
func launch(t *testing.T, env []string, args ...string) *child {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	c := &child{cmd: exec.Command(path, args...), exited: make(chan struct{})}
	c.cmd.Dir = t.TempDir()
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "PENSTOCK_") {
			c.cmd.Env = append(c.cmd.Env, v)
		}
	}
	c.cmd.Env = append(c.cmd.Env, env...)
	c.cmd.Stdout, c.cmd.Stderr = &c.stdout, &c.stderr
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		c.cmd.Wait() // the code says it all
		c.code = c.cmd.ProcessState.ExitCode()
		close(c.exited)
	}()
	t.Cleanup(func() {
		c.cmd.Process.Kill() // it may have ended
		<-c.exited
	})
	return c
}

func (c *child) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := c.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
}

// wait waits for a line of the output, and fails when the process ends without it.
func (c *child) wait(t *testing.T, o *output, line *regexp.Regexp) []string {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		ended := false
		select {
		case <-c.exited:
			ended = true
		default:
		}
		if m := line.FindStringSubmatch(o.String()); m != nil {
			return m
		}
		if ended || time.Now().After(deadline) {
			t.Fatalf("no line %s (ended: %t); stdout:\n%s\nstderr:\n%s", line, ended, c.stdout.tail(), c.stderr.tail())
		}
	}
}

// end waits until the process ends, at most as long as it may take.
func (c *child) end(t *testing.T, within time.Duration) (code int) {
	t.Helper()
	select {
	case <-c.exited:
	case <-time.After(within):
		t.Fatalf("it still runs after %s; stderr:\n%s", within, c.stderr.tail())
	}
	return c.code
}

// output keeps what a process writes.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// tail is the end of it, for a failure's message.
func (o *output) tail() string {
	s := o.String()
	return s[max(0, len(s)-4000):]
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func envInt(t *testing.T, name string, otherwise int64) int64 {
	n, err := strconv.ParseInt(cmp.Or(os.Getenv(name), strconv.FormatInt(otherwise, 10)), 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}
