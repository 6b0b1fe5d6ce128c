package eventstore

import (
	"context"
	"errors"
	"testing"
)

func TestFollowersAtOnePositionShareOneRead(t *testing.T) {
	var r recent
	at := Position{Topic: [16]byte{1}, Next: []int64{7}}
	reads := 0
	batch := &Batch{Records: []*Record{{size: 100}}, Next: Position{Topic: at.Topic, Next: []int64{8}}}
	read := func() (*Batch, error) { reads++; return batch, nil }
	for range 3 {
		b, err := r.get(t.Context(), "e", at, read)
		if err != nil || b.Records[0] != batch.Records[0] || b == batch {
			t.Fatal(b, err)
		}
		b.Release = func() {} // must not be seen by the next one
	}
	if batch.Release != nil || reads != 1 {
		t.Errorf("%d reads", reads)
	}
	// Another topic, and another position, are other reads.
	r.get(t.Context(), "o", at, read)
	r.get(t.Context(), "e", batch.Next, read)
	if reads != 3 {
		t.Errorf("%d reads, want 3", reads)
	}
	boom := errors.New("boom")
	next := Position{Topic: at.Topic, Next: []int64{9}}
	if _, err := r.get(t.Context(), "e", next, func() (*Batch, error) { return nil, boom }); !errors.Is(err, boom) {
		t.Error(err)
	}
	if _, err := r.get(t.Context(), "e", next, read); err != nil {
		t.Errorf("a failure was kept: %v", err)
	}
	for range 2 {
		r.get(t.Context(), "n", next, func() (*Batch, error) { reads++; return &Batch{Next: next}, nil })
	}
	if reads != 6 {
		t.Errorf("%d reads, want 6: one that got nowhere was kept", reads)
	}
}

func TestAReaderThatGoesAwayDoesntTakeTheOthersAlong(t *testing.T) {
	var r recent
	at := Position{Topic: [16]byte{1}, Next: []int64{7}}
	batch := &Batch{Next: Position{Topic: at.Topic, Next: []int64{8}}}
	started, gone := make(chan bool), make(chan bool)
	first := make(chan error, 1)
	go func() {
		_, err := r.get(t.Context(), "e", at, func() (*Batch, error) {
			close(started)
			<-gone
			return nil, context.Canceled
		})
		first <- err
	}()
	<-started
	second := make(chan error, 1)
	go func() {
		_, err := r.get(t.Context(), "e", at, func() (*Batch, error) { return batch, nil })
		second <- err
	}()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.get(ctx, "e", at, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("one that doesn't want to wait: %v", err)
	}
	close(gone)
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := <-second; err != nil {
		t.Error(err)
	}
}

func TestWhatIsKeptIsBounded(t *testing.T) {
	var r recent
	for n := range int64(100) {
		at := Position{Topic: [16]byte{1}, Next: []int64{n}}
		size := int64(1 << 20)
		if n%10 == 0 {
			size = recentBytes // too large to keep
		}
		if _, err := r.get(t.Context(), "e", at, func() (*Batch, error) {
			return &Batch{Records: []*Record{{size: size}}, Next: Position{Topic: at.Topic, Next: []int64{n + 1}}}, nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	if r.bytes > recentBytes || len(r.kept) != len(r.reading) || len(r.kept) == 0 {
		t.Errorf("%d bytes in %d batches, %d known", r.bytes, len(r.kept), len(r.reading))
	}
}
