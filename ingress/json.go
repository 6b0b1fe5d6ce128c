package ingress

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math/bits"
	"slices"
	"strconv"
	"sync"
	"unicode/utf8"
)

// maxNesting is how many arrays and objects of a body may stand inside one another. It is encoding/json's own limit,
// so that what is let in here can be read by whoever uses that package further on.
const maxNesting = 10_000

// maxKeys is how many keys an object and those around it may have together. Their hashes are kept until the object
// ends: eight bytes for each.
const maxKeys = 1 << 16

var (
	errNotJSON  = errors.New("the body is not JSON")
	errTooDeep  = errors.New("the body nests deeper than " + strconv.Itoa(maxNesting) + " levels")
	errTooMany  = errors.New("the body has more than " + strconv.Itoa(maxKeys) + " keys in one object")
	errNotValid = errors.New("the body is not valid UTF-8")
)

// scan is the state of find.
type scan struct {
	body   []byte
	tails  [][]byte
	at     *key     // whose value comes next; nil if nobody wants it
	inside *key     // the innermost wanted object that is open; nil if there is none
	wanted int      // how many wanted objects are open: they are the outermost, each inside the other
	open   []level  // the arrays and objects that are open
	keys   []uint64 // the hashes of the keys of all objects that are open
	twice  bool     // two keys of one object have the same hash: they are equal, but for one case in 2^64 or a rogue's
}

// scans keeps the memory of scans that are over. It is enough for ordinary bodies.
var scans = sync.Pool{New: func() any { return &scan{open: make([]level, 0, 16), keys: make([]uint64, 0, 128)} }}

// maxRested is how many keys a scan that is kept may have room for: a body of millions of them leaves nothing behind.
const maxRested = 4096

// rest makes room for another scan, and keeps nothing of the body.
func (s *scan) rest() {
	if cap(s.keys) <= maxRested && cap(s.open) <= maxRested {
		*s = scan{open: s.open[:0], keys: s.keys[:0]}
		scans.Put(s)
	}
}

// level is an array or object that is open.
type level struct {
	object bool
	first  int    // of its keys
	seen   uint64 // a bit for each key, by its hash: a key whose bit is new is no repeat
}

// few is how many keys of an object are looked at one by one. Those of larger objects wait until its end.
const few = 24

// run goes from value to value. An index of -1 stands for text that is not JSON.
func (s *scan) run() error {
	b := s.body
	for i := 0; ; {
		i = space(b, i)
		if s.at != nil {
			s.tails[s.at.number] = b[i:]
		}
		switch c := byteAt(b, i); c {
		case '{', '[':
			if len(s.open) == maxNesting {
				return errTooDeep
			}
			s.enter(c == '{')
			if i = space(b, i+1); byteAt(b, i) != c+2 { // '}' and ']' come two after '{' and '['
				if i = s.element(i); i < 0 {
					return errNotJSON
				}
				continue
			}
		case '"':
			i = stringEnd(b, i)
		case 't':
			i = wordEnd(b, i, "true")
		case 'f':
			i = wordEnd(b, i, "false")
		case 'n':
			i = wordEnd(b, i, "null")
		default:
			i = numberEnd(b, i)
		}
		if i < 0 {
			return errNotJSON
		}
		for i = space(b, i); len(s.open) > 0 && byteAt(b, i) == s.closer(); i = space(b, i+1) {
			s.leave()
		}
		switch {
		case len(s.open) == 0 && i == len(b):
			return nil
		case len(s.open) == 0 || byteAt(b, i) != ',':
			return errNotJSON
		case len(s.keys) > maxKeys:
			return errTooMany
		}
		if i = s.element(i + 1); i < 0 {
			return errNotJSON
		}
	}
}

// enter opens an array or an object, the value of s.at.
func (s *scan) enter(object bool) {
	if object && s.at != nil {
		s.inside = s.at
		s.wanted++
	}
	s.open = append(s.open, level{object: object, first: len(s.keys)})
}

// leave closes the innermost array or object.
func (s *scan) leave() {
	if s.wanted == len(s.open) {
		s.inside = s.inside.above
		s.wanted--
	}
	last := &s.open[len(s.open)-1]
	if keys := s.keys[last.first:]; len(keys) > few && !s.twice {
		s.twice = repeats(keys)
	}
	s.keys, s.open = s.keys[:last.first], s.open[:len(s.open)-1]
}

// repeats reports whether two of many hashes are equal. It changes their order.
func repeats(hashes []uint64) bool {
	var seen [4096 / 64]uint64
	if len(hashes) > 1024 {
		slices.Sort(hashes)
		for i := range hashes[1:] {
			if hashes[i] == hashes[i+1] {
				return true
			}
		}
		return false
	}
	for i, h := range hashes {
		word, bit := &seen[h%64], uint64(1)<<(h/64%64)
		if *word&bit != 0 && slices.Contains(hashes[:i], h) {
			return true
		}
		*word |= bit
	}
	return false
}

// saw notes a key of the innermost object.
func (s *scan) saw(hash uint64) {
	in := &s.open[len(s.open)-1]
	if keys := s.keys[in.first:]; len(keys) < few {
		bit := uint64(1) << (hash >> 58)
		if in.seen&bit != 0 {
			s.twice = s.twice || slices.Contains(keys, hash)
		}
		in.seen |= bit
	}
	s.keys = append(s.keys, hash)
}

func (s *scan) closer() byte {
	if s.open[len(s.open)-1].object {
		return '}'
	}
	return ']'
}

// element goes up to the next value in an array or object: in an object past the key, which says who wants the value.
func (s *scan) element(i int) int {
	s.at = nil
	if !s.open[len(s.open)-1].object {
		return i
	}
	b := s.body
	i = space(b, i)
	if byteAt(b, i) != '"' {
		return -1
	}
	end, hash := keyEnd(b, i)
	if end < 0 {
		return -1
	}
	s.saw(hash)
	if s.wanted == len(s.open) {
		s.at = s.inside.child(unquoted(b[i:end]))
	}
	if i = space(b, end); byteAt(b, i) != ':' {
		return -1
	}
	return i + 1
}

// keyEnd is stringEnd for a key, and returns a hash of what the key says. Its words are mixed as they are read.
func keyEnd(b []byte, i int) (end int, hash uint64) {
	begin := i + 1
	for at := begin; len(b)-at >= 8; at += 8 {
		word := binary.LittleEndian.Uint64(b[at:])
		found := ends(word)
		if found == 0 {
			hash = mix(hash, word)
			continue
		}
		n := bits.TrailingZeros64(found) / 8
		if b[at+n] != '"' {
			break // an escape, or no JSON
		}
		return at + n + 1, mix(mix(hash, word&(1<<(8*n)-1)), uint64(at+n-begin))
	}
	if end = stringEnd(b, i); end < 0 {
		return -1, 0
	}
	return end, hashOf(unquoted(b[i:end]))
}

// hashOf is the hash that keyEnd gives a key, escaped or not.
func hashOf(key []byte) (hash uint64) {
	var word [8]byte
	rest := key
	for ; len(rest) >= 8; rest = rest[8:] {
		hash = mix(hash, binary.LittleEndian.Uint64(rest))
	}
	copy(word[:], rest)
	return mix(mix(hash, binary.LittleEndian.Uint64(word[:])), uint64(len(key)))
}

// mix needs to tell honest keys apart, no more: two keys of equal hash are compared before anything is refused.
func mix(hash, word uint64) uint64 {
	high, low := bits.Mul64(hash^word^0x9e3779b97f4a7c15, 0xa0761d6478bd642f)
	return high ^ low
}

// byteAt returns b[i], or at the end 0, which stands nowhere in JSON.
func byteAt(b []byte, i int) byte {
	if i < len(b) {
		return b[i]
	}
	return 0
}

func space(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\r' || b[i] == '\t') {
		i++
	}
	return i
}

func wordEnd(b []byte, i int, word string) int {
	if end := i + len(word); end <= len(b) && string(b[i:end]) == word {
		return end
	}
	return -1
}

// stringEnd returns the index after the string that begins at b[i], eight bytes at a time.
func stringEnd(b []byte, i int) int {
	for i++; ; {
		for len(b)-i >= 8 {
			found := ends(binary.LittleEndian.Uint64(b[i:]))
			i += bits.TrailingZeros64(found) / 8 // 8 if there are none
			if found != 0 {
				break
			}
		}
		switch c := byteAt(b, i); {
		case c == '"':
			return i + 1
		case c < ' ': // or the end of the body
			return -1
		case c != '\\':
			i++
		default:
			switch byteAt(b, i+1) {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
				i += 2
			case 'u':
				for _, h := range [...]byte{byteAt(b, i+2), byteAt(b, i+3), byteAt(b, i+4), byteAt(b, i+5)} {
					if (h < '0' || h > '9') && (h|0x20 < 'a' || h|0x20 > 'f') {
						return -1
					}
				}
				i += 6
			default:
				return -1
			}
		}
	}
}

// ends sets the high bit of each byte of w that is a quote, a backslash or a control character. Bits above the lowest
// may be wrong, for a borrow goes upwards: https://graphics.stanford.edu/~seander/bithacks.html#HasLessInWord
func ends(w uint64) uint64 {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	quote, backslash := w^ones*'"', w^ones*'\\'
	return ((w-ones*' ')&^w | (quote-ones)&^quote | (backslash-ones)&^backslash) & highs
}

func numberEnd(b []byte, i int) int {
	if byteAt(b, i) == '-' {
		i++
	}
	if byteAt(b, i) == '0' {
		i++
	} else if i = digitsEnd(b, i); i < 0 {
		return -1
	}
	if byteAt(b, i) == '.' {
		if i = digitsEnd(b, i+1); i < 0 {
			return -1
		}
	}
	if byteAt(b, i)|0x20 == 'e' {
		if i++; byteAt(b, i) == '+' || byteAt(b, i) == '-' {
			i++
		}
		return digitsEnd(b, i)
	}
	return i
}

// digitsEnd returns the index after one digit or more.
func digitsEnd(b []byte, i int) int {
	begin := i
	for i < len(b) && b[i] >= '0' && b[i] <= '9' {
		i++
	}
	if i == begin {
		return -1
	}
	return i
}

// unquoted returns what a string says. Escapes and broken UTF-8 are rare, and encoding/json knows them best.
func unquoted(quoted []byte) []byte {
	inner := quoted[1 : len(quoted)-1]
	if bytes.IndexByte(inner, '\\') < 0 && utf8.Valid(inner) {
		return inner
	}
	var s string
	if json.Unmarshal(quoted, &s) != nil {
		return nil // never: it was scanned
	}
	return []byte(s)
}
