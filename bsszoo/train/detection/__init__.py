"""Detectors trained and measured: COCO's format, recipe, samples, task, average precision, what a training leaves.

COCO_DIR --data.open_coco--> CocoSplit --samples--> batches --task + train.loop--> a folder --models--> create
                                 |                                                   |
                                 +------ evaluation.evaluate_detector (AP) <---------+--> predict: images
"""
