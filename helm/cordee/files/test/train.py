"""What `helm test` trains: a tiny network on the bundled digits, a few seconds of it."""

import numpy as np

from cordee import trainer
from cordee.trainer import data, elastic, nn, optim

trainer.manual_seed(0)
images, labels = data.datasets.digits()
images = images.reshape(len(images), -1)[:512].astype(np.float32) / 16
model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
optimizer = optim.SGD(model.parameters(), lr=0.1)
criterion = nn.CrossEntropyLoss()
loader = data.DataLoader(data.TensorDataset(images, labels[:512]), batch_size=64, shuffle=True, shards=4, seed=0)

run = elastic.Run(model, optimizer, loader)
for step in run.steps(epochs=3):
    for batch in step.shards:
        step.backward(criterion(model(batch.x), batch.y))
    step.commit()
    if step.committed and step.epoch_end:
        print(f"epoch {step.epoch}  loss {step.loss:.4f}")
print(f"weights {run.weights_sha256()[:16]}")
