package eventstore

import (
	"context"
	"errors"
	"io"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// TestPollErrors tells what passes by itself from what a follower can't outlive.
func TestPollErrors(t *testing.T) {
	for _, passes := range []error{
		context.DeadlineExceeded, context.Canceled, kerr.NotLeaderForPartition, kerr.UnknownTopicOrPartition,
		&kgo.ErrFirstReadEOF{},
	} {
		if err := pollError(kgo.NewErrFetch(passes)); err != nil {
			t.Errorf("%T %v ends a follower", passes, passes)
		}
	}
	for is, ends := range map[error]error{
		ErrExpired: kerr.OffsetOutOfRange, kerr.TopicAuthorizationFailed: kerr.TopicAuthorizationFailed,
		io.ErrShortBuffer: io.ErrShortBuffer,
	} {
		if err := pollError(kgo.NewErrFetch(ends)); !errors.Is(err, is) {
			t.Errorf("%v gives %v, not %v", ends, err, is)
		}
	}
}
