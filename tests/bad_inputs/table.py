"""The table of bad inputs: what is typed, and what the one line that answers it says.

{f} is the folder of damaged files that conftest.py writes. Every command is expected to exit with 1.
"""

# What train.py is told, on top of a tiny corpus and model.
TRAIN = """
trainig.max_steps=10 | there is no option trainig.max_steps; did you mean trainer.max_steps?
modle=tiny | there is no option modle; did you mean model?
max_steps=3 | did you mean trainer.max_steps?
lr=1e-3 | did you mean optimizer.lr?
seeds=1 | did you mean seed?
optimizer.learning_rate=1 | there is no option optimizer.learning_rate
data=owtt | data=owtt: data has no such choice; did you mean owt?
model=huge | model=huge: model has no such choice
model= | model=: model has no such choice
tokenizer=gpt-2 | did you mean gpt2?
sampler=lladda | did you mean llada?
experiment=laptp | did you mean laptop?
schedule@training.schedule=lineer | did you mean linear?
+training.batchsize=4 | nobody reads an option training.batchsize; did you mean training.batch_size?
++training.batchsize=4 | nobody reads an option training.batchsize
+batch_size=4 | nobody reads an option batch_size
+data.pth=x | nobody reads an option data.pth; did you mean data.path?
+model.dropout=0.1 | nobody reads an option model.dropout
+optimizer.weightdecay=0.1 | did you mean optimizer.weight_decay?
+trainer.max_stps=4 | did you mean trainer.max_steps?
+order.nose=1 | nobody reads an option order.nose
+training.callbacks.mine._target_=nope.Callback | cannot be imported
+seed=3 | seed is there already: leave out the +
+trainer.accumulate_grad_batches=2 | see training.global_batch_size=
+trainer.val_check_interval=2 | see training.validate_every=
~training.ema | training.ema cannot be left out
~model.length | model.length cannot be left out
~optimizer | optimizer.lr is an option of optimizer, which ~optimizer leaves out
~lr_schedule | lr_schedule must be
~modell | did you mean model?
hidden | 'hidden' is no option: write KEY=VALUE
attention@model.attention=sparse | attention=sparse: attention has no such choice
+model.attention.size=4 | nobody reads an option model.attention.size
published.mask_id=-1 | published.mask_id must be at least 0, got -1
published.block_size=0 | published.block_size must be at least 1, got 0
published.shifted=maybe | published.shifted must be true or false or null, got maybe
published.mask=3 | did you mean published.mask_id?
published.autoregressive=perhaps | published.autoregressive must be true or false or null, got perhaps
seed=[1 | seed=[1 cannot be read
data.path=a,b | several values, which only sweep.py tries
data.path=${HOME}/x | ${oc.env:HOME}
run_dir=${HOME}/x | ${oc.env:HOME}
data.path=${oc.env:NOT_SET_ANYWHERE} | the environment variable NOT_SET_ANYWHERE is not set
seed=-1 | seed must be at least 0, got -1
seed=1.5 | seed must be a whole number, got 1.5
seed=4294967296 | seed must be below 4294967296
seed=null | seed must be a whole number, got null
debug=maybe | debug must be true or false, got maybe
trainer.max_steps=abc | trainer.max_steps must be a whole number, got abc
trainer.max_steps=10.5 | trainer.max_steps must be a whole number, got 10.5
trainer.max_steps=true | trainer.max_steps must be a whole number, got true
trainer.max_steps=null | trainer.max_steps must be a whole number, got null
trainer.max_steps=0 | trainer.max_steps must be at least 1, got 0
trainer.max_steps=-5 | trainer.max_steps must be at least 1, got -5
trainer.max_steps=inf | trainer.max_steps must be a whole number, got inf
trainer.gradient_clip_val=-1 | trainer.gradient_clip_val must be finite and not negative
trainer.gradient_clip_val=nan | trainer.gradient_clip_val must be finite and not negative
trainer.gradient_clip_val=much | trainer.gradient_clip_val must be
trainer.precision=8 | use 32-true, bf16-mixed
trainer.precision=bf16-true | too coarse
trainer.devices=0 | trainer.devices=0
trainer.devices=64 | this machine has
trainer.devices=1.5 | trainer.devices=1.5 should be a number of devices
trainer.devices=two | trainer.devices=two should be a number of devices
trainer.devices=[0,5] | a list names different GPUs
trainer.num_nodes=0 | trainer.num_nodes must be at least 1
trainer.strategy=foo | invalid strategy name
trainer.benchmark=fast | trainer.benchmark must be true or false
+trainer.limit_val_batches=-1 | limit_val_batches
training.compile=maybe | training.compile must be true or false, got maybe
training.compile=1 | training.compile must be true or false, got 1
training.batch_size=0 | training.batch_size must be at least 1
training.batch_size=2.5 | training.batch_size must be a whole number
training.batch_size=null | training.batch_size must be a whole number, got null
training.global_batch_size=6 | training.global_batch_size=6 is not a multiple
training.global_batch_size=-8 | training.global_batch_size must be at least 1
training.ema=1.5 | training.ema must be a decay in [0, 1) or null
training.ema=nan | training.ema must be a decay in [0, 1) or null
training.ema=[1] | training.ema must be a number or null
training.ema_warmup=yes_please | training.ema_warmup must be true or false
training.validate_every=0 | training.validate_every must be at least 1
training.validation_sequences=0 | training.validation_sequences must be at least 1
training.validation_sequences=all | training.validation_sequences must be a whole number or null, got all
training.log_every=0 | training.log_every must be at least 1
training.save_every=-1 | training.save_every must be at least 1
training.keep_best=-2 | training.keep_best must be at least -1
training.samples=-1 | training.samples must be at least 0
training.samples=few | training.samples must be a whole number
training.attention_annealing=-1 | training.attention_annealing must be at least 0
training.workers=-1 | training.workers must be at least 0
training.workers=100000 | training.workers must be at most 256
masking@training.masking=blockwise | training.masking.block_size is model.attention.block_size where you do not say
training.schedule=null | training.schedule must be
training.watch.steps=8 | training.watch.steps must be a list, each a whole number
training.watch.steps=[0] | steps must be positive numbers
training.callbacks=3 | training.callbacks must be
optimizer.lr=0 | optimizer.lr must be positive and finite
optimizer.lr=-1e-3 | optimizer.lr must be positive and finite
optimizer.lr=inf | optimizer.lr must be positive and finite
optimizer.lr=fast | optimizer.lr must be a number, got fast
optimizer.betas=0.9 | optimizer.betas must be a list of 2
optimizer.betas=[0.9] | optimizer.betas must be a list of 2
optimizer.betas=[0.9,1] | optimizer.betas must be two numbers in [0, 1)
optimizer.eps=0 | optimizer.eps must be positive and finite
optimizer.weight_decay=-1 | optimizer.weight_decay must be finite and not negative, got -1
optimizer.weight_decay=nan | optimizer.weight_decay must be finite
optimizer=muon optimizer.momentum=1 | optimizer.momentum must be a number in [0, 1)
timesteps@training.times=bell training.times.std=0 | training.times.std must be positive and finite
lr_schedule.warmup_steps=-1 | lr_schedule.warmup_steps must be at least 0
lr_schedule.warmup_steps=50 | lower lr_schedule.warmup_steps or raise trainer.max_steps
lr_schedule.final=2 | lr_schedule.final must be from 0 to 1
lr_schedule.decay=-0.5 | lr_schedule.decay must be from 0 to 1
model.heads=5 | hidden_size 32 must be an even multiple of heads 5
model.heads=true | model.heads must be a whole number, got true
model.depth=0 | error: model.depth must be at least 1, got 0
model.depth=1000000000 | error: model.depth must be at most
model.hidden_size=32.0 | model.hidden_size must be a whole number, got 32.0
model.time_conditioning=2 | model.time_conditioning must be true or false
data.length=64 | data.length=64 is beyond the model's length
data.length=0 | data.length=0 leaves no room
data.wrap=3 | data.wrap must be true or false
data.validation_fraction=1 | the validation fraction should be between 0 and 1
data.validation_fraction=half | data.validation_fraction must be a number
data.path=null | data=files needs data.path=
data.path=/nowhere/at/all | /nowhere/at/all does not exist
data.path={f}/empty.jsonl | there is no text
data.path={f}/list.jsonl | has no field 'text'
data.path={f}/number.jsonl | field 'text' is no text but int
data.path={f}/broken.jsonl | broken.jsonl:2 is not valid JSON
data.path={f}/utf16.txt | is not UTF-8 text
data.path={f}/cut.txt.gz | cut.txt.gz is damaged
data.path={f}/fake.txt.gz | fake.txt.gz is damaged
data.path={f}/cut.parquet | is not a valid parquet file
data.path={f}/folder | contains none of .txt
data.path={f}/dangling.txt | does not exist or matches no file
data.path={f}/image.png | image.png
data.path={f}/pairs.jsonl data.prompt_field=q data.response_field=r | has no field 'r'; set data.response_field=
data.prompt_field=q | set both data.prompt_field= and data.response_field=
data.text_field=body data.path={f}/number.jsonl | has no field 'body'
data=toy tokenizer=task data.path=null | data=toy needs data.path=
data=toy tokenizer=task data.path={f}/distribution_short.json | 2 sequences but 1 probabilities
data=toy tokenizer=task data.path={f}/distribution_nan.json | probabilities must be positive and sum to 1
data=toy tokenizer=task data.path={f}/distribution_list.json | it has no sequences
data=toy tokenizer=task data.path={f}/distribution_mixed.json | whole numbers
data=toy tokenizer=task data.path={f}/bytes.json | is not UTF-8 text
data=toy tokenizer=task data.path={f} | Is a directory
data=sudoku tokenizer=byte | brings its own tokenizer
data=sudoku tokenizer=task data.box=4 | data.box=4 should be 2
data=sudoku tokenizer=task data.clues=many | data.clues must be a whole number, got many
data=sudoku tokenizer=task data.train=0 | should both be at least 1
data=countdown tokenizer=task data.numbers=1 | data.numbers=1 should be 2 to 8
tokenizer=task | needs a tokenizer: choose one
tokenizer=bpe tokenizer.vocab_size=10 | tokenizer.vocab_size=10 is too small
tokenizer=bpe tokenizer.vocab_size=1e3 | tokenizer.vocab_size must be a whole number
tokenizer=character tokenizer.alphabet= | tokenizer.alphabet is empty
tokenizer=file | set tokenizer.name_or_path=
tokenizer=file tokenizer.name_or_path={f}/object.json | is not a valid tokenizer
tokenizer=file tokenizer.name_or_path={f}/bytes.json | is not UTF-8 text
tokenizer=file tokenizer.name_or_path={f}/folder | there is no tokenizer at
schedule=beta schedule.alpha=0 | schedule.alpha must be positive and finite, got 0
schedule=beta schedule.beta=nan | schedule.beta must be positive and finite, got nan
schedule=advised | schedule=advised needs advice=FILE
schedule=advised advice={f}/array.json schedule.family=foo | schedule.family must be beta or optimal, got foo
schedule=advised advice=/nowhere.json | cannot read advice=/nowhere.json
schedule=advised advice={f}/array.json | is no advice.json
schedule=advised advice={f}/bytes.json | is no advice.json
sampler=advised | sampler=advised needs advice=FILE
sampler=advised advice={f}/array.json | is no advice.json
sampler=advised order=random | order
sampler=advised advice={f}/array.json schedule=linear | it is for a sampler that is made of parts
advice={f}/array.json | would change nothing: it is for sampler=advised or schedule=advised
schedule=advised advice={f} | is a folder: give the file
ckpt=last | no run in outputs has a checkpoint yet
ckpt=123 | ckpt=123 does not exist
ckpt={f}/folder | has no checkpoints/last.ckpt
ckpt={f}/empty.ckpt | empty.ckpt is not a readable checkpoint
ckpt={f}/no_archive.ckpt | no_archive.ckpt is not a readable checkpoint
cache_dir=/proc/nope | cannot use /proc/nope
run_dir=/proc/forbidden | /proc/forbidden
logger=tensorbord | did you mean tensorboard?
"""

# What evaluate.py is told, on top of a checkpoint.
EVALUATE = """
evaluation=likelihoodd | did you mean likelihood?
evaluation=[likelihood,sample] | did you mean samples?
evaluation=task orders=[spaced] | orders=[spaced] would change nothing: it is for evaluation=advise
evaluation=samples scorer.order=3 | it is for evaluation=generation, frontier or mauve
evaluation=[profile,task] estimator=continuous | it is for evaluation=likelihood
evaluation=likelihood prompt=x | it is for evaluation=samples
evaluation=likelihood schedule=beta sampler=advised | needs advice=FILE
evaluation=task sampler=advised | sampler=advised needs advice=FILE
evaluation=likelihood sampler.steps=4 | sampler.steps=4 would change nothing: it is for evaluations that generate
evaluation=likelihood estimator=k_step sampler=maskgit order=confidence | order=confidence would change nothing
evaluation=profile tokens.temperature=0.5 | tokens.temperature=0.5 would change nothing
evaluation=[likelihood,profile] eos=never | eos=never would change nothing
evaluation=likelihood estimator=continuous cache=dual | cache=dual would change nothing
evaluation=samples evaluation.sequences=8 | that have no number of their own, as evaluation.samples.sequences
evaluation=task evaluation.steps=[4] | evaluation.steps=[4] would change nothing: it is for evaluation=advise
compare=[last,last] ckpt=null sampler=llada | sampler=llada would change nothing
evaluation=generation scorer=run scorer.ckpt=/nowhere | scorer.ckpt=/nowhere does not exist
samples.prompt=x | did you mean evaluation.samples.prompt?
+evaluation.foo=3 | nobody reads an option evaluation.foo
+evaluation.samples.promt=x | did you mean evaluation.samples.prompt?
+evaluation.files.mytsk=x | nobody reads an option evaluation.files
+prmpt=hello | did you mean prompt?
trainer.max_steps=4 | trainer.max_steps is for training
evaluation.sequences=0 | evaluation.sequences must be at least 1, got 0
evaluation.sequences=many | evaluation.sequences must be a whole number or null, got many
evaluation.batch_size=0 | evaluation.batch_size must be at least 1
evaluation.batch_size=1.5 | evaluation.batch_size must be a whole number, got 1.5
evaluation.first=-1 | evaluation.first must be at least 0
evaluation.first=99999999999999999999 | evaluation.first must be below
evaluation=likelihood evaluation.first=100000 | none from 100000 on
evaluation=likelihood evaluation.likelihood.draws=0 | evaluation.likelihood.draws must be at least 1
evaluation=profile evaluation.profile.knots=1 | evaluation.profile.knots must be at least 2
evaluation=certificate evaluation.certificate.floor=0 | evaluation.certificate.floor must be between 0 and 1
evaluation=certificate sampler=eb | does not reveal positions in an order that is known beforehand
evaluation=likelihood,profile | a list is evaluation=[likelihood,profile]
evaluation=advise sampler=first_hitting | there is nothing to advise: FirstHitting looks at neither schedule nor steps
evaluation=advise evaluation.steps=[] | evaluation.steps must be positive numbers
evaluation=advise evaluation.steps=[4,8,4] | evaluation.steps must be different numbers
evaluation=advise evaluation.steps=4 | evaluation.steps must be a list
evaluation=advise evaluation.advise.racers=1 | evaluation.advise.racers must be at least 2
evaluation=advise orders=[random,spaced,random] | orders= names random twice: once is enough
evaluation=advise orders=[spacd] | did you mean spaced?
evaluation=advise orders=[spaced] sampler=remdm | works with the order Random only, got Spaced
evaluation=samples evaluation.samples.length=0 | evaluation.samples.length must be at least 1
evaluation=samples evaluation.samples.length=1000 | is beyond the model's
evaluation=task | evaluation=task needs a checkpoint of a task
evaluation=exact_distribution | evaluation=exact_distribution needs a distribution
evaluation=none | there is nothing to evaluate
evaluation=generation scorer.order=0 | scorer.order must be at least 1
evaluation=frontier evaluation.frontier.temperatures=[1.0] | evaluation.frontier.temperatures must be two or more
evaluation=mauve | has none: choose scorer=hf, or scorer=run
evaluation=mauve scorer=hf evaluation.mauve.scaling=-1 | evaluation.mauve.scaling must be positive
evaluation=frontier evaluation.frontier.temperatures=[0.5,-1.0] | evaluation.frontier.temperatures must be positive
evaluation=frontier evaluation.frontier.temperatures=[1,0.5,1.0] | evaluation.frontier.temperatures must be different
evaluation=frontier evaluation.frontier.temperatures=[1] evaluation.frontier.top_p=[0.9,0.9] | top_p must be different
evaluation=paper_figures evaluation.paper_figures.results={f}/number.jsonl | no table of scores
evaluation=lm_eval | evaluation=lm_eval needs evaluation.tasks=
evaluation=lm_eval evaluation.tasks=gsm8k | evaluation.tasks must be a list, each text, got gsm8k
evaluation=lm_eval evaluation.tasks=[gsm8k] evaluation.program_seconds=0 | evaluation.program_seconds must be positive
evaluation=lm_eval evaluation.tasks=[gsm8k] +evaluation.files.gsm8l={f} | did you mean gsm8k?
sampler.steps=0 | sampler.steps must be a positive integer
sampler.steps=x | sampler.steps must be a whole number or null, got x
sampler.blocks.length=0 | sampler.blocks.length must be at least 1
evaluation=samples sampler.steps=1 sampler.blocks.length=2 | steps must be at least one for each of
evaluation=samples tokens.banned=[1000] | banned must be tokens of the vocabulary
evaluation=likelihood estimator=policy sampler=remdm | walk: RemaskCapped masks positions again
evaluation=likelihood estimator=policy count=confidence_threshold order=confidence | have an exact likelihood
order=minimum_distance order.distance=0 | order.distance must be at least 1
count=share_of_remaining count.eps=2 | count.eps must be from 0 to 1
count=dilated_sizes count.base=1 | count.base must be at least 2
sampler.guidance.scale=inf | sampler.guidance.scale must be finite
cache=duel | did you mean dual?
cache=dual cache.every=0 | cache.every must be at least 1
evaluation=samples cache=exact | choose cache=prefix or cache=dual
evaluation=caching | choose cache=prefix, dual or exact
sampler=remdm eos.early_end=true | may mask an end again
eos.early_end=2 | eos.early_end must be
eos=nevr | did you mean never?
eos=last | EosLast looks at drawn tokens, but the order Random chooses positions before
eos=never eos.turns=2 | eos.turns must be
evaluation=likelihood estimator=policy sampler=llada tokens=categorical eos=last | and such paths have no bound
sampler=remdm order=confidence | works with the order Random only
sampler=remdm count.eta=2 | count.eta must be from 0 to 1
tokens.temperature=-1 | tokens.temperature must be finite and not negative
tokens.top_p=0 | tokens.top_p must be in (0, 1]
tokens.top_k=0 | tokens.top_k must be at least 1
tokens.banned=5 | tokens.banned must be a list
order=confidence order.noise=-1 | order.noise must be finite and not negative
schedule=tabulated schedule.alphas=[0,0.5] | alphas must not decrease
schedule=tabulated schedule.alphas=0.5 | schedule.alphas must be a list
trajectory=1 | trajectory must be true or false
trainer.precision=8 | use 32-true, bf16-mixed
trainer.accelerator=tpu | evaluation runs on auto, cpu or gpu
data=sudoku | has another tokenizer
evaluation=likelihood export={f} | is not empty
ckpt=/nowhere.ckpt | does not exist
ckpt=null | needs a checkpoint
published.mask_id=3 | published.mask_id=3 would change nothing
compare=last ckpt=null | compare must be a list
compare=[last] ckpt=null | compare= needs two runs or more
compare=[last,last] ckpt=null | compare=last: no run in outputs has a checkpoint yet
compare=[{f}/nowhere,last] ckpt=null | nowhere does not exist
compare=[{f}/folder,last] ckpt=null | has no checkpoints/last.ckpt: give a run folder
compare=[{f}/empty.ckpt,last] ckpt=null | empty.ckpt is not a readable checkpoint
compare=[some/model,last] ckpt=null | is a published model
compare=[last,last] | compare= goes with neither ckpt= nor export=
compare=[last,last] ckpt=null evaluation=profile | compare= measures the likelihood
"""

# What sweep.py is told, on top of a checkpoint.
SWEEP = """
sweep.alpha=[] | sweep.alpha must be a list of positive numbers
sweep.alpha=[0.5,1,0.5] | sweep.alpha must be a list without repetitions
sweep.steps=[8,8] | sweep.steps must be a list without repetitions
sampler.steps=8,4,8 | sampler.steps=8,4,8 has a value twice: once is enough
evaluation=likelihood sampler=llada,maskgit order=random,confidence | would change nothing
sampler=advised | sampler=advised needs advice=FILE
sweep.steps=[0] | sweep.steps must be a list of numbers from 1 on
sweep.steps=8 | sweep.steps must be a list
sweep.limit=0 | sweep.limit must be at least 1
sweep.refine=-1 | sweep.refine must be at least 0
sweep.race=perhaps | sweep.race must be true or false
sweep.race=true sweep.refine=3 | sweep.refine must be 0 where sweep.race=true confirms its winner itself
sweep.race=true sweep.limit=10 | sweep.limit must be at least sweep.race_first where sweep.race=true
sweep.race=true sweep.full=1 | sweep.full must be at least 2 where sweep.race=true
sweep.prune=everything | sweep.prune must be
sweep.prune=predicted sweep.profile=null | sweep.prune must be null where sweep.profile=null
sweep.prune=predicted hydra.job.chdir=true | sweep.prune=predicted decides itself which cells come next
sweep.keep=0 | sweep.keep must be at least 1
sweep.race_first=1 | sweep.race_first must be at least 2
sweep.race_level=1 | sweep.race_level must be between 0 and 1
sweep.race=true hydra.job.chdir=true | sweep.race=true decides itself which cells come next
sweep.race=true evaluation=lm_eval evaluation.tasks=[a,b] | sweep.race=true goes by one score
sweep.baselines=[liner] | there is no schedule liner; did you mean linear?
+sweep.metrc=accuracy | did you mean sweep.metric?
schedule.alpha=0,1 | schedule.alpha must be positive and finite, got 0
schedule.alfa=0,1 | did you mean schedule.alpha?
sampler=advised schedule=linear,sine advice={f}/array.json | would change nothing
orders=[spaced] | it is for evaluation=advise
sampler.steps=2,x | sampler.steps must be a whole number or null, got x
order=random,confidense | did you mean confidence?
+order.foo=1,2 | nobody reads an option order.foo
logger=none,csv | cannot be swept
ckpt=null | needs a checkpoint
"""


def rows(table: str) -> list[tuple[str, str]]:
    """What is typed, and what is answered."""
    lines = [line.rsplit(" | ", 1) for line in table.strip().splitlines()]
    return [(typed, answer) for typed, answer in lines]
