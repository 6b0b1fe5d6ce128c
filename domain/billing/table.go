package billing

// table is a map from text to V that is never changed: with returns another table that shares most of the first.
// A state made of tables can be kept, tried against and thrown away by its holder, and recording one event in an
// account of 100,000 charges copies a handful of small arrays instead of 100,000 entries.
//
// It is a tree with 16 branches, chosen by four bits of the key's hash at each level. The zero value is empty.
type table[V any] struct{ root *node[V] }

// node is a leaf with a few entries, or a branch with kids.
type node[V any] struct {
	entries []entry[V]
	kids    *[16]*node[V]
}

type entry[V any] struct {
	key   string
	value V
}

const (
	leafSize = 8  // entries of a leaf before it becomes a branch
	maxDepth = 16 // levels that 64 bits of hash can tell apart
)

// get returns the value of key, or the zero V.
func (t table[V]) get(key string) (value V, ok bool) {
	n, h := t.root, hash(key)
	for n != nil && n.kids != nil {
		n, h = n.kids[h&15], h>>4
	}
	if n != nil {
		for _, e := range n.entries {
			if e.key == key {
				return e.value, true
			}
		}
	}
	return value, false
}

// with returns a table in which key has value, and otherwise what t has.
func (t table[V]) with(key string, value V) table[V] {
	return table[V]{t.root.with(entry[V]{key, value}, hash(key), 0)}
}

func (n *node[V]) with(e entry[V], h uint64, depth int) *node[V] {
	if n == nil {
		return &node[V]{entries: []entry[V]{e}}
	}
	if n.kids != nil {
		kids := *n.kids
		i := h >> (4 * depth) & 15
		kids[i] = kids[i].with(e, h, depth+1)
		return &node[V]{kids: &kids}
	}
	entries := make([]entry[V], len(n.entries), len(n.entries)+1)
	copy(entries, n.entries)
	for i := range entries {
		if entries[i].key == e.key {
			entries[i] = e
			return &node[V]{entries: entries}
		}
	}
	entries = append(entries, e)
	if len(entries) <= leafSize || depth == maxDepth {
		return &node[V]{entries: entries}
	}
	branch := &node[V]{kids: new([16]*node[V])}
	for _, e := range entries {
		h := hash(e.key)
		i := h >> (4 * depth) & 15
		branch.kids[i] = branch.kids[i].with(e, h, depth+1)
	}
	return branch
}

// each calls f for every key, in no order that means anything.
func (t table[V]) each(f func(key string, value V)) { t.root.each(f) }

func (n *node[V]) each(f func(key string, value V)) {
	if n == nil {
		return
	}
	for _, e := range n.entries {
		f(e.key, e.value)
	}
	if n.kids != nil {
		for _, kid := range n.kids {
			kid.each(f)
		}
	}
}

// hash is FNV-1a (http://www.isthe.com/chongo/tech/comp/fnv/).
func hash(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}
