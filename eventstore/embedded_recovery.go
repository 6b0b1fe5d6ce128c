package eventstore

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// recoverTransactions ends the transactions that a killed broker left open, before anybody can read.
//
// kfake has no transaction log. Its EndTxn writes one marker after the other, so a kill can leave a commit in some
// partitions only; and it counts what has no marker as aborted without writing one. A consumer then drops everything
// that the same producer commits later and that comes in the same fetch, and at the next kill the aborted records are
// taken for committed, because the next marker of their producer is a commit. So every transaction without a marker gets
// one here: commit if the same transaction has been committed elsewhere, which no participant could have learned
// otherwise, else abort. Every transaction has an epoch of its own (KIP-890), which tells it from the producer's last one.
//
// The broker for it listens on a port that nobody knows.
func recoverTransactions(dir string, logger *slog.Logger) error {
	if os.Remove(filepath.Join(dir, closedFile)) == nil {
		return nil
	}
	if _, err := os.Stat(filepath.Join(dir, "meta.json")); errors.Is(err, os.ErrNotExist) {
		return nil // nothing was kept here yet
	}
	// What snapshots there are may be of a recovery that was killed. Without them kfake reads the log itself.
	if err := removeSnapshots(dir); err != nil {
		return err
	}
	if err := rebuildIndexes(dir); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	cluster, err := startCluster(listener, dir, logger)
	if err != nil {
		listener.Close()
		return err
	}
	marked, err := endTransactions(listener.Addr().String())
	cluster.Close()
	if err != nil || marked == 0 {
		return err
	}
	logger.Warn("the embedded broker was killed within transactions, which are ended now", "markers", marked)
	return removeSnapshots(dir) // they still have these transactions as aborted without a marker
}

// rebuildIndexes makes the index beside every segment anew from the segment's batches.
//
// kfake writes a batch and then its index entry, which says whether the batch is in a transaction. After a kill between
// the two, every later entry is taken for the batch before its own, so that aborted transactions are taken for
// committed ones, from then on and in that partition.
func rebuildIndexes(dir string) error {
	segments, err := filepath.Glob(filepath.Join(dir, "partitions", "*", "*.dat"))
	for _, s := range segments {
		err = errors.Join(err, rebuildIndex(s))
	}
	return err
}

// rebuildIndex writes, for each whole batch of a segment, a version, a checksum, the leader epoch, a timestamp that
// isn't read, and whether the batch is in a transaction. The batch's header is
// https://kafka.apache.org/documentation/#recordbatch.
func rebuildIndex(segment string) error {
	f, err := os.Open(segment)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	var index []byte
	var h [23]byte
	for at := int64(0); at+61 <= info.Size(); {
		if _, err := f.ReadAt(h[:], at); err != nil {
			return err
		}
		if at += 12 + int64(binary.BigEndian.Uint32(h[8:])); at > info.Size() {
			break // torn by the kill; kfake cuts it off
		}
		var e [15]byte
		e[0] = 1
		binary.LittleEndian.PutUint32(e[2:], binary.BigEndian.Uint32(h[12:]))
		if attributes := binary.BigEndian.Uint16(h[21:]); attributes&0x30 == 0x10 { // transactional, and no marker
			e[14] = 1
		}
		e[1] = byte(crc32.Checksum(e[2:], castagnoli))
		index = append(index, e[:]...)
	}
	name := strings.TrimSuffix(segment, ".dat") + ".idx"
	if err := os.WriteFile(name+".tmp", index, 0o600); err != nil {
		return err
	}
	return os.Rename(name+".tmp", name)
}

func removeSnapshots(dir string) error {
	snapshots, err := filepath.Glob(filepath.Join(dir, "partitions", "*", "snapshot.json"))
	for _, s := range snapshots {
		err = errors.Join(err, os.Remove(s))
	}
	return err
}

// transaction is one of a producer's.
type transaction struct {
	producer int64
	epoch    int16
}

// endTransactions reads everything and writes the markers that are missing.
func endTransactions(addr string) (marked int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.KeepControlRecords(), kgo.FetchIsolationLevel(kgo.ReadUncommitted()))
	if err != nil {
		return 0, err
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	starts, err := adm.ListStartOffsets(ctx)
	if err == nil {
		err = starts.Error()
	}
	if err != nil {
		return 0, err
	}
	ends, err := adm.ListEndOffsets(ctx)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return 0, err
	}
	type place struct {
		topic     string
		partition int32
	}
	left, from := map[place]int64{}, map[string]map[int32]kgo.Offset{}
	ends.Each(func(o kadm.ListedOffset) {
		start, _ := starts.Lookup(o.Topic, o.Partition)
		if o.Offset > start.Offset {
			left[place{o.Topic, o.Partition}] = o.Offset
			if from[o.Topic] == nil {
				from[o.Topic] = map[int32]kgo.Offset{}
			}
			from[o.Topic][o.Partition] = kgo.NewOffset().At(start.Offset)
		}
	})
	cl.AddConsumePartitions(from)
	open, committed := map[place]map[int64]int16{}, map[transaction]bool{}
	for len(left) > 0 {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return 0, err
		}
		fetches.EachRecord(func(r *kgo.Record) {
			at := place{r.Topic, r.Partition}
			switch {
			case r.Attrs.IsControl():
				delete(open[at], r.ProducerID)
				if len(r.Key) >= 4 && binary.BigEndian.Uint16(r.Key[2:]) == 1 {
					committed[transaction{r.ProducerID, r.ProducerEpoch}] = true
				}
			case r.Attrs.IsTransactional():
				if open[at] == nil {
					open[at] = map[int64]int16{}
				}
				open[at][r.ProducerID] = r.ProducerEpoch
			}
			if r.Offset+1 >= left[at] {
				delete(left, at)
			}
		})
	}
	var markers []kadm.TxnMarkers
	for at, producers := range open {
		for producer, epoch := range producers {
			markers = append(markers, kadm.TxnMarkers{
				ProducerID: producer, ProducerEpoch: epoch, Commit: committed[transaction{producer, epoch}],
				Topics: kadm.TopicsSet{at.topic: {at.partition: {}}},
			})
		}
	}
	if len(markers) == 0 {
		return 0, nil
	}
	written, err := adm.WriteTxnMarkers(ctx, markers...)
	if err != nil {
		return 0, err
	}
	written.EachPartition(func(p kadm.TxnMarkersPartitionResponse) { err = errors.Join(err, p.Err) })
	return len(markers), err
}
