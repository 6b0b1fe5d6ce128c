package client

import (
	"context"
	"time"
)

// FollowSoon is Follow for tests: it comes back within a moment, and finds out within a moment that a WebSocket isn't
// answered (upgrade) or that somebody gathers what a feed says (preamble); 0 for the usual patience.
func FollowSoon(ctx context.Context, rawURL string, o Options, upgrade, preamble time.Duration, handle func(Message) error) error {
	f, err := newFollower(rawURL, o, handle)
	if err != nil {
		return err
	}
	f.hasty()
	if upgrade > 0 {
		f.upgrade = upgrade
	}
	if preamble > 0 {
		f.preamble = preamble
	}
	return f.run(ctx)
}

// hasty makes a follower wait only for moments; what the other end asks for counts less too.
func (f *follower) hasty() {
	f.least, f.most, f.longest = 5*time.Millisecond, 100*time.Millisecond, 100*time.Millisecond
}
