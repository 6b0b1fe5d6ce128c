// Package eventstore is the only package that touches storage.
//
// The Log (Kafka) is the truth. A Table (bbolt) is any fold of it. A Position ties the two: it says how far into the
// log a table, a cursor or an answer is. The files about Kafka (log, topics, append, commit, owner, follow, embedded)
// never import bbolt, and the files about bbolt (table, journal) never import a Kafka client.
package eventstore
