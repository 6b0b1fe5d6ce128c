package ingress

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"hash/crc32"
	"os"

	"github.com/penstock-io/penstock/eventstore"
)

// A segment of the spool is a header and then frames:
//
//	header  magic "PNSTKSP1" | number u64 | nonce 8 | CRC32C of these u32 | 0 u32
//	frame   nonce[:4] | length u32 | CRC32C of nonce, frame's offset u64, length and payload | payload
//
// Numbers are little endian, the payload is eventstore.Entry.AppendBinary. The nonce is random: what stands in a
// delivery's body can't be taken for a frame, also when a damaged segment is searched for the next one. The offset lets
// no frame pass that stands in the wrong place.
const (
	spoolMagic = "PNSTKSP1"
	headerSize = 32
	frameSize  = 12 // before the payload
)

// maxFrame bounds a frame: more than the log would take of an entry is not taken here either.
const maxFrame = eventstore.MaxRecordBytes

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type segmentNonce [8]byte

// newSegmentHeader makes the header of a segment.
func newSegmentHeader(number uint64) (header []byte, n segmentNonce) {
	rand.Read(n[:]) // never fails
	header = make([]byte, headerSize)
	copy(header, spoolMagic)
	binary.LittleEndian.PutUint64(header[8:], number)
	copy(header[16:], n[:])
	binary.LittleEndian.PutUint32(header[24:], crc32.Checksum(header[:24], castagnoli))
	return header, n
}

// readSegmentHeader returns a segment's number and nonce, and ok false if data doesn't begin with a whole header.
func readSegmentHeader(data []byte) (number uint64, n segmentNonce, ok bool) {
	if len(data) < headerSize || string(data[:8]) != spoolMagic ||
		crc32.Checksum(data[:24], castagnoli) != binary.LittleEndian.Uint32(data[24:]) {
		return 0, n, false
	}
	return binary.LittleEndian.Uint64(data[8:]), segmentNonce(data[16:24]), true
}

// appendFrame appends the frame of e for the given offset in its segment.
func appendFrame(b []byte, n segmentNonce, offset int64, e eventstore.Entry) ([]byte, error) {
	at := len(b)
	b = append(append(b, n[:4]...), make([]byte, frameSize-4)...)
	b, err := e.AppendBinary(b)
	if err != nil {
		return b[:at], err
	}
	closeFrame(b[at:], n, offset)
	return b, nil
}

// newFrame frames a payload that is encoded already.
func newFrame(n segmentNonce, offset int64, payload []byte) []byte {
	frame := append(append(n[:4:4], make([]byte, frameSize-4)...), payload...)
	closeFrame(frame, n, offset)
	return frame
}

func closeFrame(frame []byte, n segmentNonce, offset int64) {
	binary.LittleEndian.PutUint32(frame[4:], uint32(len(frame)-frameSize))
	binary.LittleEndian.PutUint32(frame[8:], frameSum(n, offset, frame))
}

func frameSum(n segmentNonce, offset int64, frame []byte) uint32 {
	var seed [16]byte
	copy(seed[:], n[:])
	binary.LittleEndian.PutUint64(seed[8:], uint64(offset))
	sum := crc32.Update(crc32.Checksum(seed[:], castagnoli), castagnoli, frame[4:8])
	return crc32.Update(sum, castagnoli, frame[frameSize:])
}

// frameAt returns the frame that begins data, which stands at offset. ok is false if there is no whole and unharmed one.
func frameAt(data []byte, n segmentNonce, offset int64) (frame []byte, ok bool) {
	if len(data) < frameSize || !bytes.Equal(data[:4], n[:4]) {
		return nil, false
	}
	size := int64(binary.LittleEndian.Uint32(data[4:])) + frameSize
	if size > maxFrame || size > int64(len(data)) {
		return nil, false
	}
	frame = data[:size:size]
	return frame, frameSum(n, offset, frame) == sumOf(frame)
}

// sumOf is the checksum that a frame carries.
func sumOf(frame []byte) uint32 { return binary.LittleEndian.Uint32(frame[8:]) }

// segmentPart is a part of a segment.
type segmentPart struct{ from, to int64 }

// scanFrames finds the frames of a segment, the damaged parts between them, and where the last frame ends. What comes after
// that is either a write that was cut off or damage too; the bytes alone can't tell.
func scanFrames(data []byte, n segmentNonce, found func(offset int64, frame []byte)) (damaged []segmentPart, end int64) {
	at := int64(headerSize)
	for {
		frame, ok := frameAt(data[at:], n, at)
		if ok {
			found(at, frame)
			at += int64(len(frame))
			continue
		}
		next, ok := nextFrame(data, n, at+1)
		if !ok {
			return damaged, at
		}
		damaged = append(damaged, segmentPart{at, next})
		at = next
	}
}

func nextFrame(data []byte, n segmentNonce, from int64) (at int64, ok bool) {
	for from < int64(len(data)) {
		i := bytes.Index(data[from:], n[:4])
		if i < 0 {
			return 0, false
		}
		from += int64(i)
		if _, ok := frameAt(data[from:], n, from); ok {
			return from, true
		}
		from++
	}
	return 0, false
}

// A segment's marks say how far it is known to be synced, which of its frames the log has taken, and in which run of the
// machine it was written. They stand in a file of their own, which is not synced for each delivery, and are believed only
// where they agree with the segment, so one that is lost or wrong means that something is sent twice, or kept although
// nobody was told that it is safe; never that something isn't sent.
const (
	markSynced = 'S' // value: the length that is synced; sum: 0
	markDone   = 'D' // value: the frame's offset; sum: the frame's checksum
	markBoot   = 'B' // value and sum: of the machine's run
	markSize   = 13
)

func newMark(kind byte, value int64, sum uint32) []byte {
	b := make([]byte, 0, markSize)
	b = append(b, kind)
	b = binary.LittleEndian.AppendUint32(b, uint32(value))
	b = binary.LittleEndian.AppendUint32(b, sum)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// bootMark names a run of the machine.
type bootMark struct {
	value uint32
	sum   uint32
}

// thisBoot is the present run, or zero where it has no name.
func thisBoot() bootMark {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return bootMark{}
	}
	h := sha256.Sum256(id)
	return bootMark{binary.LittleEndian.Uint32(h[:]), binary.LittleEndian.Uint32(h[4:])}
}

// marks are what a segment's marks say.
type marks struct {
	done   map[int64]uint32 // checksums by offset
	synced int64            // the length that is known to be synced
	boot   bootMark
	whole  bool // nothing in them is spoiled
}

func readMarks(b []byte) marks {
	m := marks{done: map[int64]uint32{}, whole: len(b)%markSize == 0}
	for ; len(b) >= markSize; b = b[markSize:] {
		if crc32.Checksum(b[:9], castagnoli) != binary.LittleEndian.Uint32(b[9:]) {
			m.whole = false
			continue
		}
		value, sum := binary.LittleEndian.Uint32(b[1:]), binary.LittleEndian.Uint32(b[5:])
		switch b[0] {
		case markSynced:
			m.synced = max(m.synced, int64(value))
		case markDone:
			m.done[int64(value)] = sum
		case markBoot:
			m.boot = bootMark{value, sum}
		}
	}
	return m
}

// tellAll reports whether everything that was acknowledged in the segment is within synced. It is when the machine has run
// on since: a mark is written before a delivery is acknowledged, and what is written outlives the process. It may not
// outlive the machine.
func (m marks) tellAll(now bootMark) bool { return m.whole && m.boot == now && now != bootMark{} }
