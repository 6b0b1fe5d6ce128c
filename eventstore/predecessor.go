package eventstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// How long a node looks for the member that it was before, and how often.
const (
	predecessorTime = sessionTimeout
	predecessorStep = 20 * time.Millisecond
)

// keepMember keeps as which member this node takes part, for the process that follows it.
func (l *Log) keepMember(cl *kgo.Client) error {
	id, _ := cl.GroupMetadata()
	if l.cfg.MemberFile == "" || id == "" {
		return nil
	}
	return os.WriteFile(l.cfg.MemberFile, []byte(id), 0o600)
}

// predecessor is the member that the process before this one was, or "".
func (l *Log) predecessor() (id string, err error) {
	if l.cfg.MemberFile == "" {
		return "", nil
	}
	b, err := os.ReadFile(l.cfg.MemberFile)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return string(b), err
}

// bury takes a dead member out of the group. The partitions of a node that was killed would wait for it until its session
// has expired: 6 s in which nobody handles anything. Whoever holds the data folder knows that no other process does. It
// waits until this node is a member itself: in a group that it had emptied first, a broker would wait for more members
// (group.initial.rebalance.delay.ms, 3 s by default).
func (l *Log) bury(ctx context.Context, cl *kgo.Client, dead string) error {
	if dead == "" {
		return nil
	}
	group := l.writersGroup()
	ctx, cancel := context.WithTimeout(ctx, predecessorTime)
	defer cancel()
	for {
		if self, _ := cl.GroupMetadata(); self == dead {
			return nil
		} else if self != "" {
			described, err := l.adm.DescribeGroups(ctx, group)
			if err == nil {
				err = described[group].Err
			}
			if err != nil && ctx.Err() == nil {
				return fmt.Errorf("describe group %s: %w", group, err)
			}
			is := func(id string) func(kadm.DescribedGroupMember) bool {
				return func(m kadm.DescribedGroupMember) bool { return m.MemberID == id }
			}
			members := described[group].Members
			if err == nil && !slices.ContainsFunc(members, is(dead)) {
				return nil
			}
			if slices.ContainsFunc(members, is(self)) {
				break
			}
		}
		select {
		case <-time.After(predecessorStep):
		case <-ctx.Done():
			return nil // the node stops, or the session of the dead one has expired
		}
	}
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Group, req.MemberID = group, dead
	member := kmsg.NewLeaveGroupRequestMember()
	member.MemberID, member.Reason = dead, kmsg.StringPtr("the node was started again")
	req.Members = append(req.Members, member)
	resp, err := req.RequestWith(ctx, l.client)
	if err != nil {
		return fmt.Errorf("take member %s out of group %s: %w", dead, group, err)
	}
	codes := []int16{resp.ErrorCode}
	for _, m := range resp.Members {
		codes = append(codes, m.ErrorCode)
	}
	for _, code := range codes {
		if err := kerr.ErrorForCode(code); err != nil && !errors.Is(err, kerr.UnknownMemberID) {
			return fmt.Errorf("take member %s out of group %s: %w", dead, group, err)
		}
	}
	l.cfg.Logger.Info("the member that this node was before is out of the group", "member", dead)
	return nil
}
