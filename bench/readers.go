package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// urgently runs a program as a real-time process where that is allowed, and like any other where it isn't.
const urgently = `chrt -r 1 true 2>/dev/null && exec chrt -r 1 "$@"; exec "$@"`

// readers asks for rows of balances for window, or until done says so, and returns how long each took, in order. They are
// a child that runs urgently: on two cores that a build keeps busy, a client like any other waited up to a tick of the
// kernel (4 ms) for a core of its own, and that was most of what it measured.
func (p *process) readers(ctx context.Context, rows int, window time.Duration, done func() bool) (took []time.Duration, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	var out, said bytes.Buffer
	cmd := exec.CommandContext(ctx, "sh", "-c", urgently, "sh", self, "readers", "-addr", p.addr, "-events", strconv.Itoa(rows))
	cmd.Stdout, cmd.Stderr = &out, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	enough, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	for began := time.Now(); time.Since(began) < window && !done(); {
		if err = sleep(ctx, 50*time.Millisecond); err != nil {
			break
		}
	}
	enough.Close()
	if e := cmd.Wait(); e != nil && err == nil {
		err = fmt.Errorf("readers: %w\n%s", e, said.Bytes())
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(out.Bytes(), &took); err != nil {
		return nil, fmt.Errorf("readers: %w\n%s", err, said.Bytes())
	}
	slices.Sort(took)
	return took, nil
}

// readRows asks for a row 200 times a second until its input ends. A request that had to wait for an earlier one counts
// from when it should have been sent.
func readRows(ctx context.Context, r role) error {
	const every = 5 * time.Millisecond
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer cancel()
		io.Copy(io.Discard, os.Stdin)
	}()
	took := []time.Duration{}
	p := &process{addr: r.addr}
	for at := time.Now(); ; at = at.Add(every) {
		if sleep(ctx, time.Until(at)) != nil {
			return json.NewEncoder(os.Stdout).Encode(took)
		}
		// Its own context, so that the last one is a whole one too.
		asking, stop := context.WithTimeout(context.WithoutCancel(ctx), patience)
		var row struct{ Customer string }
		err := p.get(asking, "/v1/projections/balances/rows/cus_"+strconv.Itoa(rand.IntN(r.events)), &row)
		stop()
		if err != nil {
			return err
		}
		took = append(took, time.Since(at))
	}
}
