package eventstore

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
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
	missing, err := rebuildIndexes(dir)
	if err != nil || len(missing) == 0 {
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
	err = endTransactions(listener.Addr().String(), missing)
	cluster.Close()
	if err != nil {
		return err
	}
	logger.Warn("the embedded broker was killed within transactions, which are ended now", "markers", len(missing))
	return removeSnapshots(dir) // they still have these transactions as aborted without a marker
}

func removeSnapshots(dir string) error {
	snapshots, err := filepath.Glob(filepath.Join(dir, "partitions", "*", "snapshot.json"))
	for _, s := range snapshots {
		err = errors.Join(err, os.Remove(s))
	}
	return err
}

// endTransactions writes the markers that are missing.
func endTransactions(addr string, missing []kadm.TxnMarkers) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr))
	if err != nil {
		return err
	}
	defer cl.Close()
	written, err := kadm.NewClient(cl).WriteTxnMarkers(ctx, missing...)
	if err != nil {
		return err
	}
	written.EachPartition(func(p kadm.TxnMarkersPartitionResponse) { err = errors.Join(err, p.Err) })
	return err
}
