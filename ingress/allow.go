package ingress

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"time"
)

const (
	maxRanges    = 10_000  // in one list
	maxAllowFile = 1 << 20 // bytes
	// allowPoll is how often files of ranges are looked at. Notifications of the file system don't reach a file that is
	// mounted by itself, or swapped by a link, as Kubernetes does it.
	allowPoll = 5 * time.Second
)

// parseRange reads an address range such as 192.0.2.0/24 or 2001:db8::/32, or one address. Bits beyond the mask are
// refused: who writes 10.0.0.1/8 may mean one machine, and would get sixteen million.
func parseRange(text string) (netip.Prefix, error) {
	var none netip.Prefix
	if addr, err := netip.ParseAddr(text); err == nil {
		if addr.Zone() != "" {
			return none, fmt.Errorf("%.64q: an address range has no zone", text)
		}
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return none, fmt.Errorf("%.64q is no address range such as 192.0.2.0/24 or 2001:db8::/32", text)
	}
	if p.Masked() != p {
		return none, fmt.Errorf("%.64q has bits beyond its mask; the range is %s, the address alone %s", text, p.Masked(), p.Addr())
	}
	if p.Addr().Is4In6() {
		if p.Bits() < 96 {
			return none, fmt.Errorf("%.64q covers more than the IPv4 addresses mapped into IPv6", text)
		}
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p, nil
}

// ranges is a set of address ranges that is asked in a time that doesn't depend on their number.
type ranges struct {
	set     map[netip.Prefix]bool
	lengths []int // the lengths of the masks there are, each once
}

func rangesOf(list []netip.Prefix) ranges {
	r := ranges{set: make(map[netip.Prefix]bool, len(list))}
	known := map[int]bool{}
	for _, p := range list {
		r.set[p] = true
		if !known[p.Bits()] {
			known[p.Bits()] = true
			r.lengths = append(r.lengths, p.Bits())
		}
	}
	return r
}

// contains is false for an address that isn't known.
func (r ranges) contains(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	for _, bits := range r.lengths {
		if p, err := a.Prefix(bits); err == nil && r.set[p] {
			return true
		}
	}
	return false
}

// parseRanges reads a list of ranges as it stands in a configuration.
func parseRanges(list []string) ([]netip.Prefix, error) {
	var errs []error
	if len(list) > maxRanges {
		return nil, fmt.Errorf("at most %d address ranges, there are %d", maxRanges, len(list))
	}
	out := make([]netip.Prefix, 0, len(list))
	for _, text := range list {
		p, err := parseRange(text)
		if err == nil && p.Bits() == 0 {
			err = fmt.Errorf("%s allows everybody; leave the list out if that is meant", text)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, p)
	}
	return out, errors.Join(errs...)
}

// parseAllowFile reads a file of ranges: one on each line, with # for comments; or JSON, which is an array, or an
// object with one under "hooks" (https://api.github.com/meta) or "WEBHOOKS"
// (https://stripe.com/files/ips/ips_webhooks.json). A file without a range is broken: it would refuse everybody.
func parseAllowFile(content []byte) ([]netip.Prefix, error) {
	var list []string
	switch trimmed := bytes.TrimSpace(content); {
	case bytes.HasPrefix(trimmed, []byte("[")):
		if err := json.Unmarshal(trimmed, &list); err != nil {
			return nil, errors.New("it is not a JSON array of address ranges")
		}
	case bytes.HasPrefix(trimmed, []byte("{")):
		var members map[string]json.RawMessage
		if err := json.Unmarshal(trimmed, &members); err != nil {
			return nil, errors.New("it is not JSON")
		}
		found := members["hooks"]
		if found == nil {
			found = members["WEBHOOKS"]
		}
		if err := json.Unmarshal(found, &list); err != nil {
			return nil, errors.New(`it is a JSON object without an array of address ranges under "hooks" or "WEBHOOKS"`)
		}
	default:
		for line := range strings.Lines(string(content)) {
			line, _, _ = strings.Cut(line, "#")
			if line = strings.TrimSpace(line); line != "" {
				list = append(list, line)
			}
		}
	}
	if len(list) == 0 {
		return nil, errors.New("it has no address range in it")
	}
	return parseRanges(list)
}

// allowList says from where a source takes deliveries. It may be asked while it is reloaded.
type allowList struct {
	fixed []netip.Prefix
	path  string // "" without a file
	state atomic.Pointer[allowState]
}

type allowState struct {
	ranges
	seen    os.FileInfo // of the file as it was last read, or tried
	loaded  time.Time   // when the file in use was read
	problem error       // why the file as it is now is not in use
}

// newAllowList returns nil for a source that takes deliveries from everywhere.
func newAllowList(fixed []string, path string, now time.Time) (*allowList, error) {
	if len(fixed) == 0 && path == "" {
		return nil, nil
	}
	list, err := parseRanges(fixed)
	if err != nil {
		return nil, fmt.Errorf("allow: %w", err)
	}
	a := &allowList{fixed: list, path: path}
	a.state.Store(&allowState{ranges: rangesOf(list)})
	if path != "" {
		if _, err := a.reload(now); err != nil {
			return nil, err
		}
	}
	return a, nil
}

func (a *allowList) contains(addr netip.Addr) bool { return a == nil || a.state.Load().contains(addr) }

// reload reads the file if it is another one than at the last look. A file that can't be read, or isn't right, leaves
// the ranges as they are. It is called by one goroutine at a time.
func (a *allowList) reload(now time.Time) (changed bool, err error) {
	old := a.state.Load()
	content, info, err := readChanged(a.path, old.seen)
	if err == nil && content == nil {
		return false, old.problem
	}
	next := *old
	next.seen = info
	if err == nil {
		var list []netip.Prefix
		if list, err = parseAllowFile(content); err == nil {
			next.ranges, next.loaded, next.problem = rangesOf(append(list, a.fixed...)), now, nil
		}
	}
	if err != nil {
		next.problem = fmt.Errorf("allow_file %s: %w", a.path, err)
		changed = old.problem == nil || old.problem.Error() != next.problem.Error()
		a.state.Store(&next)
		return changed, next.problem
	}
	a.state.Store(&next)
	return true, nil
}

// readChanged reads a file unless it is the one seen; then content is nil.
func readChanged(path string, seen os.FileInfo) (content []byte, info os.FileInfo, err error) {
	if info, err = os.Stat(path); err != nil {
		return nil, nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, info, errors.New("it is not a regular file") // opening a pipe would wait for its writer
	}
	if seen != nil && os.SameFile(seen, info) && seen.ModTime().Equal(info.ModTime()) && seen.Size() == info.Size() {
		return nil, info, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	content, err = io.ReadAll(io.LimitReader(f, maxAllowFile+1))
	if err == nil && len(content) > maxAllowFile {
		err = fmt.Errorf("it has more than %d bytes", maxAllowFile)
	}
	if content == nil {
		content = []byte{}
	}
	return content, info, err
}

// Run reloads the files of address ranges when they change, until ctx ends.
func (h *Handler) Run(ctx context.Context) error {
	tick := time.NewTicker(allowPoll)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			h.reloadFiles()
		case <-ctx.Done():
			return nil
		}
	}
}

// reloadFiles looks at every source's file once. What is wrong with one is said when it becomes so, in the log, and for
// as long as it is in the metric and the source's status.
func (h *Handler) reloadFiles() {
	for name, rt := range *h.routes.Load() {
		if rt.allow == nil || rt.allow.path == "" {
			continue
		}
		changed, err := rt.allow.reload(h.clock())
		rt.broken.Set(float64(bit(err != nil)))
		switch {
		case err != nil && changed:
			h.log.Error("a list of allowed addresses can't be reloaded; the last good one stays", "source", name, "error", err)
		case changed:
			h.log.Info("a list of allowed addresses was reloaded", "source", name, "ranges", len(rt.allow.state.Load().set))
		}
	}
}

func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}
