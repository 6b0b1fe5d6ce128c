package penstock

// Run is the command line, for the tests outside of this package.
var Run = run

// SourceOf is a source as the configuration has it.
var SourceOf = Config.source
