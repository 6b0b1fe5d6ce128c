package eventstore

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
)

// rebuildIndexes makes the index beside every segment anew from the segment's batches, and returns the markers that are
// missing: of each transaction that has none, a commit if it has been committed elsewhere, else an abort.
//
// kfake writes a batch and then its index entry, which says whether the batch is in a transaction. After a kill between
// the two, every later entry is taken for the batch before its own, so that aborted transactions are taken for
// committed ones, from then on and in that partition.
func rebuildIndexes(dir string) (missing []kadm.TxnMarkers, err error) {
	folders, err := filepath.Glob(filepath.Join(dir, "partitions", "*"))
	if err != nil {
		return nil, err
	}
	open, committed := map[string]map[int64]int16{}, map[transaction]bool{}
	for _, folder := range folders {
		name := filepath.Base(folder)
		open[name] = map[int64]int16{}
		segments, err := segmentsOf(folder)
		if err != nil {
			return nil, err
		}
		for _, s := range segments {
			err := rebuildIndex(s, func(b batchHeader) {
				t := transaction{b.producer(), b.epoch()}
				switch {
				case b.control():
					delete(open[name], t.producer)
					if b.commits() {
						committed[t] = true
					}
				case b.transactional():
					open[name][t.producer] = t.epoch
				}
			})
			if err != nil {
				return nil, err
			}
		}
	}
	for name, producers := range open {
		cut := strings.LastIndexByte(name, '-')
		partition, err := strconv.ParseInt(name[cut+1:], 10, 32)
		if cut < 0 || err != nil {
			continue // no folder of a partition
		}
		for producer, epoch := range producers {
			missing = append(missing, kadm.TxnMarkers{
				ProducerID: producer, ProducerEpoch: epoch, Commit: committed[transaction{producer, epoch}],
				Topics: kadm.TopicsSet{name[:cut]: {int32(partition): {}}},
			})
		}
	}
	return missing, nil
}

// transaction is one of a producer's.
type transaction struct {
	producer int64
	epoch    int16
}

// segmentsOf are the segments of a partition, in the order of the log. Their names are their first offsets.
func segmentsOf(folder string) ([]string, error) {
	segments, err := filepath.Glob(filepath.Join(folder, "*.dat"))
	first := func(segment string) int64 {
		n, err := strconv.ParseInt(strings.TrimSuffix(filepath.Base(segment), ".dat"), 10, 64)
		if err != nil {
			return -1
		}
		return n
	}
	slices.SortFunc(segments, func(a, b string) int { return cmp.Compare(first(a), first(b)) })
	return segments, err
}

// batchHeader is the beginning of a batch of records
// (https://kafka.apache.org/documentation/#recordbatch), and of a control batch also its one record, which is never
// compressed.
type batchHeader []byte

const batchHeaderSize = 61

func (b batchHeader) attributes() uint16  { return binary.BigEndian.Uint16(b[21:]) }
func (b batchHeader) transactional() bool { return b.attributes()&0x30 == 0x10 }
func (b batchHeader) control() bool       { return b.attributes()&0x20 != 0 }
func (b batchHeader) producer() int64     { return int64(binary.BigEndian.Uint64(b[43:])) }
func (b batchHeader) epoch() int16        { return int16(binary.BigEndian.Uint16(b[51:])) }

// commits reports whether a control batch is the marker of a commit: a record's length, attributes, two deltas and the
// length of its key stand before the key's version and type.
func (b batchHeader) commits() bool {
	r := b[batchHeaderSize:]
	skip := func() {
		if _, n := binary.Varint(r); n > 0 {
			r = r[n:]
		} else {
			r = nil
		}
	}
	skip()
	if len(r) > 0 {
		r = r[1:]
	}
	skip()
	skip()
	skip()
	return len(r) >= 4 && binary.BigEndian.Uint16(r[2:]) == 1
}

// rebuildIndex writes, for each whole batch of a segment, a version, a checksum, the leader epoch, a timestamp that
// isn't read, and whether the batch is in a transaction. see gets every batch. Where the kill has torn one, kfake cuts the
// segment off, and so does this.
func rebuildIndex(segment string, see func(batchHeader)) error {
	f, err := os.Open(segment)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	in := bufio.NewReaderSize(f, 1<<20)
	var index, b []byte
	for left := info.Size(); left >= batchHeaderSize; {
		head, err := in.Peek(12)
		if err != nil {
			return err
		}
		size := 12 + int64(binary.BigEndian.Uint32(head[8:]))
		if size < batchHeaderSize || size > left {
			break
		}
		b = slices.Grow(b[:0], int(size))[:size]
		if _, err := io.ReadFull(in, b); err != nil {
			return err
		}
		if crc32.Checksum(b[21:], castagnoli) != binary.BigEndian.Uint32(b[17:]) {
			break
		}
		left -= size
		h := batchHeader(b)
		see(h)
		var e [15]byte
		e[0] = 1
		binary.LittleEndian.PutUint32(e[2:], binary.BigEndian.Uint32(b[12:]))
		if h.transactional() {
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
